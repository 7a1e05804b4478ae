"""What of Odoo is overridden, and all that we know of Odoo. Start reading in bus.py.

Nothing is imported here: :mod:`.series` is wanted before Odoo has read its
configuration, all the rest only afterwards.
"""

"""What differs between the series of Odoo, in one place.

:mod:`.models.bus` and :mod:`.models.cron`, beside it, look at the shape of what they
override, whatever the series is called.
"""

import odoo.modules.loading
import odoo.modules.module
from odoo.release import version_info
from odoo.tools import config

#: The series as a number; the first part is "saas~18" between two of them.
MAJOR = int(str(version_info[0]).rpartition("~")[2])

#: The command line of 14.0 to 18.0 imports every addon with a folder ``cli`` when a
#: command is named (``odoo server``), before the configuration is read; a command is
#: there if that has imported it. From 19.0 on the file of the command is enough.
COMMANDS_ARE_IMPORTED = MAJOR < 19

#: To 17.0 and 18.0, and maybe to versions between 16.0 and 17.0, whatever is imported
#: is loaded: they never call its ``post_load``.
MAY_SKIP_POST_LOAD = MAJOR in (16, 17, 18)

#: Server-wide modules of stock Odoo which it does not add by itself: who sets
#: ``server_wide_modules`` must not forget them.
SERVER_WIDE_MODULES_TO_KEEP = ("rpc",) if MAJOR >= 19 else ()


def call_when_loaded(name, callback):
    """Have Odoo's loader call back when it loads an addon, although it is imported.

    :param str name: the name of the addon
    :param callback: called without arguments, each time
    """
    stock = odoo.modules.module.load_openerp_module

    def load_openerp_module(module_name):
        stock(module_name)
        if module_name == name:
            callback()

    # the one for server-wide modules, the other for those of a database
    odoo.modules.module.load_openerp_module = load_openerp_module
    odoo.modules.loading.load_openerp_module = load_openerp_module


def parse_config(args):
    """Read the configuration as the server does, without setting up its log.

    :param list args: the server's options on the command line
    """
    # the method around this one sets up the log, in series where it cannot be told
    config._parse_config(args)
    odoo.modules.module.initialize_sys_path()


def config_file():
    """Return the path of odoo.conf; it was an attribute before 19.0."""
    return config.get("config") or getattr(config, "rcfile", None) or "odoo.conf"


def server_wide_modules():
    """Return the names of the server-wide modules (list); a text before 19.0."""
    found = config["server_wide_modules"] or []
    return [n.strip() for n in found.split(",")] if isinstance(found, str) else found


def evented_port():
    """Return the port of the evented worker; it was called otherwise before 16.0."""
    return config.get("gevent_port") or config.get("longpolling_port")

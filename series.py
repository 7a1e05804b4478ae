"""What differs between the series of Odoo, in one place.

:mod:`.models.bus` and :mod:`.models.cron`, beside it, look at the shape of what they
override, whatever the series is called.
"""

from odoo.modules.module import initialize_sys_path
from odoo.release import version_info
from odoo.tools import config

#: The command line of 16.0 and 17.0 imports every addon that has a folder ``cli`` when
#: a command is named (``odoo server``), before the configuration is read. These count
#: as loaded from then on, and their ``post_load`` is never called.
MAY_SKIP_POST_LOAD = version_info[0] in (16, 17)

#: ``rpc`` is one of the default server-wide modules from 19.0 on; who lists these must
#: not forget it.
DEFAULT_SERVER_WIDE_MODULES = (
    ("base", "rpc", "web") if version_info[0] >= 19 else ("base", "web")
)


def parse_config(args):
    """Read the configuration as the server does, without setting up its log.

    :param list args: the server's options on the command line
    """
    # the method around this one sets up the log, in series where it cannot be told
    config._parse_config(args)
    initialize_sys_path()


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

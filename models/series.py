"""What differs between the series of Odoo, in one place.

:mod:`.bus` and :mod:`.cron`, beside it, look at the shape of what they override,
whatever the series is called.
"""

import inspect
import os

import odoo.modules.loading
import odoo.modules.module
import odoo.service.server
from odoo.release import version_info
from odoo.tools import config

#: The series as a number; the first part is "saas~18" between two of them.
MAJOR = int(str(version_info[0]).rpartition("~")[2])

#: The command line of 14.0 to 18.0 imports every addon with a folder ``cli`` when a
#: command is named (``odoo server``), before the configuration is read; a command is
#: there if that has imported it. From 19.0 on the file of the command is enough.
COMMANDS_ARE_IMPORTED = MAJOR < 19

#: Server-wide modules of stock Odoo which it does not add by itself: who sets
#: ``server_wide_modules`` must not forget them.
SERVER_WIDE_MODULES_TO_KEEP = ("rpc",) if MAJOR >= 19 else ()


def call_when_loaded(name, callback):
    """Have Odoo's loader call back each time it loads an addon, imported or not."""
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

    :param args: the server's options on the command line
    :raise ValueError: if one is wrong, for which Odoo prints its own usage and exits
    :raise OSError: if the file cannot be read, which Odoo ignores
    :raise configparser.Error, ValueError: if there is something wrong in it
    """

    def error(message):
        raise ValueError(message)

    config.parser.error = error
    # the method around this one sets up the log, in series where it cannot be told
    config._parse_config(args)
    if os.environ.get("ODOO_RC") or os.path.exists(config_file()):
        with open(config_file()):
            pass
    odoo.modules.module.initialize_sys_path()


def on_stop(callback):
    """Have a callback called when the server stops, where the series can.

    There is no such thing in 14.0; in 15.0 it is a method of the server.
    """
    hook = inspect.getattr_static(odoo.service.server.CommonServer, "on_stop", None)
    if isinstance(hook, classmethod):
        odoo.service.server.CommonServer.on_stop(callback)
    elif hook and odoo.service.server.server:
        odoo.service.server.server.on_stop(callback)


def config_file():
    """Return the path of odoo.conf; it was an attribute before 19.0."""
    return config.get("config") or getattr(config, "rcfile", None) or "odoo.conf"


def get_option(name):
    """Return the value of an option, ours or Odoo's.

    ``db_system`` is one from 19.1 on. Before, an odoo.conf may have it all the same,
    and nobody reads it.
    """
    if name == "db_system" and name not in getattr(config, "options_index", ()):
        return None
    return config.get(name)


def list_option(name):
    """Return the value of an option of Odoo's that is a list; a text before 19.0."""
    found = config[name] or []
    return [n.strip() for n in found.split(",")] if isinstance(found, str) else found


def evented_port():
    """Return the port of the evented worker; it was called otherwise before 16.0.

    Where Odoo does not know one of these names, an odoo.conf may have it all the same,
    as a text.
    """
    ports = (config.get(name) for name in ("gevent_port", "longpolling_port"))
    return next(port for port in ports if isinstance(port, int))

"""What differs between the series of Odoo for who runs it, found by what is there."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Series:
    """One of Odoo's, in a folder."""

    name: str
    """E.g. "19.0"."""
    package: Path
    """The Python package `odoo`."""
    addons: tuple[Path, ...]
    """Folders of Odoo's own addons, where Odoo does not know them by itself."""

    @property
    def server_wide_modules(self) -> list[str]:
        """What stock Odoo loads; without `rpc` where it exists, RPC is off."""
        names = ["base", "rpc", "web"]
        return [name for name in names if name != "rpc" or self._addon("rpc")]

    @property
    def evented_port_option(self) -> str:
        renamed = "--gevent-port" in self._read("tools/config.py")
        return "--gevent-port" if renamed else "--longpolling-port"

    def translate(self, conf: str) -> str:
        """An odoo.conf of 19.0 in the words of this series."""
        option = self.evented_port_option.strip("-").replace("-", "_")
        modules = ",".join(self.server_wide_modules)
        conf = conf.replace("\ngevent_port =", f"\n{option} =")
        if not self.has_evented_pool:
            conf = re.sub("^db_maxconn_gevent = .*\n", "", conf, flags=re.MULTILINE)
        return conf.replace("= base,rpc,web,", f"= {modules},")

    @property
    def has_evented_pool(self) -> bool:
        """Whether the evented process has a number of cursors of its own."""
        return "db_maxconn_gevent" in self._read("tools/config.py")

    @property
    def no_demo_options(self) -> list[str]:
        """Keep demonstration data out, where they are there by default."""
        is_default = "--with-demo" not in self._read("tools/config.py")
        return ["--without-demo=all"] if is_default else []

    @property
    def has_websockets(self) -> bool:
        """Whether browsers wait for messages on websockets, not by long polling."""
        bus = self._addon("bus")
        return bool(bus and (bus / "websocket.py").exists())

    @property
    def has_history(self) -> bool:
        """Whether clients get a row that is committed after one with a greater id."""
        if not self.has_websockets:
            return False
        text = (self._addon("bus") / "websocket.py").read_text()
        return "_notif_history" in text

    @property
    def channels_name_database(self) -> bool:
        """Whether a channel of the bus that is a text gets the name of the database."""
        return "channel_with_db" in self._bus_model or self.has_websockets

    @property
    def has_notify_function(self) -> bool:
        """Whether the environment can name what sends a notification."""
        return "ODOO_NOTIFY_FUNCTION" in self._bus_model

    @property
    def has_cron_triggers(self) -> bool:
        """Whether a scheduled action can be started at once."""
        return "cron_trigger" in self._read("service/server.py")

    @property
    def cron_values(self) -> dict[str, int]:
        """What a scheduled action needs to run more than once; before 18.0, a count."""
        counted = "numbercall" in self._read("addons/base/models/ir_cron.py")
        return {"numbercall": -1} if counted else {}

    @property
    def chat(self) -> tuple[str, str]:
        """The model of a channel of Discuss, and its method to add partners."""
        models = self._addon("mail") / "models"
        if list(models.glob("**/discuss_channel.py")):
            return "discuss.channel", "add_members"
        text = (models / "mail_channel.py").read_text()
        invite = "add_members" if "def add_members" in text else "channel_invite"
        return "mail.channel", invite

    @property
    def _bus_model(self) -> str:
        bus = self._addon("bus")
        return (bus / "models/bus.py").read_text() if bus else ""

    def _addon(self, name: str) -> Path | None:
        folders = [folder / name for folder in (self.package / "addons", *self.addons)]
        return next((folder for folder in folders if folder.exists()), None)

    @functools.cache  # noqa: B019 -- there is one in a process
    def _read(self, name: str) -> str:
        return (self.package / name).read_text()

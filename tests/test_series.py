"""What other series need, as far as this one can show it."""

from unittest import mock

import odoo.modules.loading
import odoo.modules.module
from odoo.tools import config

from .. import post_load
from ..models import roads, series
from .common import Case


class TestPostLoad(Case):
    def test_loader_calls_back_although_the_addon_is_imported(self):
        modules = (odoo.modules.module, odoo.modules.loading)
        for module in modules:
            stock = module.load_openerp_module
            self.addCleanup(setattr, module, "load_openerp_module", stock)
        called = []
        series.call_when_loaded("bus_alt_connection", lambda: called.append(True))
        for count, module in enumerate(modules, 1):
            module.load_openerp_module("bus")
            module.load_openerp_module("bus_alt_connection")
            self.assertEqual(len(called), count)

    def test_a_name_that_odoo_does_not_know_is_not_read(self):
        is_known = "db_system" in getattr(config, "options_index", ())
        expected = "elsewhere" if is_known else "postgres"
        # of odoo.conf, where any name may stand
        options = getattr(config, "_runtime_options", config.options)
        with mock.patch.dict(options, db_system="elsewhere"):
            self.assertEqual(roads.notify_database(), expected)
            self.assertEqual(roads.load_settings().params["dbname"], expected)

    def test_only_the_first_call_announces(self):
        with self.assertNoLogs("odoo.addons.bus_alt_connection"):
            post_load()

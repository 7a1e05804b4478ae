{
    "name": "Bus behind PgBouncer",
    "summary": "Live bus (LISTEN/NOTIFY) for Odoo behind PgBouncer",
    "version": "1.0.0",
    "category": "Technical",
    "license": "LGPL-3",
    "author": "bus_alt_connection contributors",
    "depends": ["bus"],
    "post_load": "post_load",
}

{
    "name": "Bus behind PgBouncer",
    "summary": "Live bus (LISTEN/NOTIFY) for Odoo behind PgBouncer",
    "version": "1.1.0",
    "development_status": "Beta",
    "category": "Technical",
    "license": "LGPL-3",
    "author": "bus_alt_connection contributors",
    "depends": ["bus"],
    "images": ["static/description/discuss.png"],
    "post_load": "post_load",
}

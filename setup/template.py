"""The database of which all others are copies: Odoo with Discuss and two users."""

from __future__ import annotations

from typing import TYPE_CHECKING

from basics import step

if TYPE_CHECKING:
    from stack import Stack

TEMPLATE = "template_mail"

USERS = {"admin": "Alma Reyes", "demo": "Jonas Weber"}
"""Login, which is the password as well, and name."""

SCRIPT = f"""
# Attachments in the database: a copy of it is complete then.
env["ir.config_parameter"].set_param("ir_attachment.location", "db")
env["ir.attachment"].force_storage()
for login, name in {USERS!r}.items():
    values = dict(name=name, password=login, email=login + "@example.com", tz="UTC")
    user = env["res.users"].search([("login", "=", login)])
    if user:
        user.write(values)
    else:
        users = env["res.users"].with_context(no_reset_password=True)
        users.create(dict(values, login=login))
# Otherwise the first page of every copy would take several seconds.
if hasattr(env["ir.qweb"], "_pregenerate_assets_bundles"):
    env["ir.qweb"]._pregenerate_assets_bundles()
env.cr.commit()
"""


def make_template(stack: Stack) -> str:
    """Make the database, unless it is there; return its name."""
    finished = f"SELECT 1 FROM pg_database WHERE datname = '{TEMPLATE}'"
    if stack.execute(f"{finished} AND datistemplate"):
        return TEMPLATE
    with step(f"Creating the database {TEMPLATE}, with Discuss and two users"):
        stack.execute(f"DROP DATABASE IF EXISTS {TEMPLATE} WITH (FORCE)")
        odoo = stack.odoo(TEMPLATE, workers=0, addon=None)
        no_demo = stack.environment.series.no_demo_options
        odoo.check("--init=mail", "--stop-after-init", "--no-http", *no_demo)
        odoo.check("shell", "--no-http", input=SCRIPT)
        stack.execute(f"ALTER DATABASE {TEMPLATE} ALLOW_CONNECTIONS false")
        stack.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            f" WHERE datname = '{TEMPLATE}'"
        )
        stack.execute(f"ALTER DATABASE {TEMPLATE} IS_TEMPLATE true")
    return TEMPLATE

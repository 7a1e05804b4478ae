"""The roles of odoo.conf, in PostgreSQL and in PgBouncer's list."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg2 import sql

if TYPE_CHECKING:
    from stack import Stack


def create_roles(stack: Stack) -> None:
    """Create the roles of odoo.conf or update them, and PgBouncer's list of them.

    Neither is a superuser; odoo may create databases, odoo_listen only connect.
    """
    existing = {name for (name,) in stack.execute("SELECT rolname FROM pg_roles")}
    for role, password in stack.passwords.items():
        verb = "ALTER" if role in existing else "CREATE"
        createdb = "CREATEDB" if role == "odoo" else "NOCREATEDB"
        stack.execute(
            sql.SQL(f"{verb} ROLE {{}} LOGIN {createdb} PASSWORD {{}}").format(
                sql.Identifier(role), sql.Literal(password)
            )
        )
    write_userlist(stack)


def write_userlist(stack: Stack) -> None:
    """Tell PgBouncer of the role odoo and of those that have its privileges."""
    verifiers = stack.execute(
        "SELECT rolname, rolpassword FROM pg_authid"
        " WHERE NOT rolsuper AND pg_has_role(oid, 'odoo', 'MEMBER')"
    )
    userlist = stack.folder / "userlist.txt"
    userlist.touch(mode=0o600)
    userlist.write_text("".join(f'"{name}" "{x}"\n' for name, x in verifiers))
    stack.hand_over(userlist)

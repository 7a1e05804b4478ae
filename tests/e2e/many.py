"""Databases with a bus table and no more, for what needs many and no Odoo."""

import contextlib


@contextlib.contextmanager
def bus_databases(stack, prefix, count):
    """So many databases of that prefix, all copies of the first, in the ``with`` block.

    Each takes 8 MB. What an earlier run has left behind is dropped.
    """
    drop_databases(stack, prefix)
    names = [f"{prefix}{number:03}" for number in range(count)]
    stack.execute(f"CREATE DATABASE {names[0]} TEMPLATE template0 OWNER odoo")
    conn = stack.connect(names[0])
    with conn, conn.cursor() as cr:
        cr.execute("CREATE TABLE bus_bus (id serial PRIMARY KEY, channel varchar)")
    conn.close()
    for name in names[1:]:
        stack.execute(f"CREATE DATABASE {name} TEMPLATE {names[0]} OWNER odoo")
    try:
        yield names
    finally:
        drop_databases(stack, prefix)


def drop_databases(stack, prefix):
    for (name,) in stack.execute("SELECT datname FROM pg_database"):
        if name.startswith(prefix):
            stack.drop_database(name)

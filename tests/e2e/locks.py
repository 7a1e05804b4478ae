"""Holding the lock that each NOTIFY takes at COMMIT, one for the whole cluster."""

import contextlib
import threading
import time

import psycopg2
from client import DEADLINE, wait_until


@contextlib.contextmanager
def hold_notify_lock(stack, sql):
    """Hold it for as long as the ``with`` block lasts.

    By a session that waits, in its COMMIT, for a standby that does not exist.

    :param sql: executes a query as superuser, and returns its rows
    """
    conn = stack.connect("postgres", role="postgres")
    conn.autocommit = True
    released = threading.Event()

    def hold():
        # if it is lost so is the lock, which is found out below
        lost = contextlib.suppress(psycopg2.Error)
        with lost, contextlib.closing(conn), conn.cursor() as cr:
            # no other session waits for a standby: see the stack's settings
            cr.execute("SET synchronous_commit = on")
            # until the cluster as a whole knows that it has to wait
            while not released.is_set():
                cr.execute(
                    "SELECT pg_notify('e2e', ''), pg_logical_emit_message(true, '', '')"
                )
                time.sleep(0.05)

    def is_held():
        return sql("SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'")

    sql("ALTER SYSTEM SET synchronous_standby_names = '*'")
    sql("SELECT pg_reload_conf()")
    thread = threading.Thread(target=hold, daemon=True)
    thread.start()
    try:
        wait_until(is_held, "the lock is held")
        yield
        assert is_held()
    finally:
        released.set()
        sql("ALTER SYSTEM RESET synchronous_standby_names")
        sql("SELECT pg_reload_conf()")
        thread.join(DEADLINE)

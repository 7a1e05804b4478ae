"""What long polling alone has: 14.0 and 15.0."""

import pytest
from client import Sender, User, wait_until

pytestmark = pytest.mark.long_polling

#: A request takes its time between reading and waiting for what is new, but surely less
#: than that after which what is new is told once more.
SLOW_READING = """
from odoo.addons.bus_alt_connection.models.handed_bus import HandedLoop

read = "_poll" if hasattr(bus.ImBus, "_poll") else "poll"
stock = getattr(bus.ImBus, read)

def slow(self, *args, **kwargs):
    found = stock(self, *args, **kwargs)
    bus._logger.info("Has read %d", len(found))
    time.sleep(0.5)
    return found

def post_load():
    setattr(bus.ImBus, read, slow)
    HandedLoop.AGAIN_AFTER = 5
"""


@pytest.mark.parametrize("workers", [2, 0], ids=["prefork", "threaded"])
def test_message_between_reading_and_waiting(stack, other_addon, database, workers):
    """In stock Odoo it comes after 50 s."""
    with other_addon(SLOW_READING, workers) as server:

        def count_readings():
            return server.log.read_text().count("Has read 0")

        client = User(server, database).websocket("e2e")
        sender = Sender(stack, database)
        for _i in range(2):
            before = count_readings()
            # the request that gets it is followed by one that has read nothing
            client.receive(sender.send("e2e"))
            wait_until(lambda n=before: count_readings() > n, "a request has read")
            client.receive(sender.send("e2e"))
        client.close()

import logging

from odoo.release import version

from ..models.bus import known

from . import test_advice
from . import test_bus
from . import test_canary
from . import test_cron
from . import test_handed_bus
from . import test_health
from . import test_listener
from . import test_log
from . import test_metrics
from . import test_monitoring
from . import test_options
from . import test_override
from . import test_poller
from . import test_readme
from . import test_road
from . import test_series
from . import test_settings

if known.has_websockets:
    from . import test_websockets
else:
    logging.getLogger(__name__).info(
        "test_websockets is not applicable to Odoo %s", version
    )

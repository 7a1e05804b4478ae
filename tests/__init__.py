from . import test_bus
from . import test_canary
from . import test_cron
from . import test_listener
from . import test_poller
from . import test_readme
from . import test_settings

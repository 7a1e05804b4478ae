from . import connection
from . import bus
from . import cron

"""The bureau's own clock. China has kept one offset without summer time since 1992, so no time zone database is
needed."""

from datetime import timedelta, timezone

SHANGHAI = timezone(timedelta(hours=8), "Asia/Shanghai")

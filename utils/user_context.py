"""The current user's functions under the names that applications know; they live in ``clients``."""

from __future__ import annotations

from clients.identity import (
    clear_current_user_id,
    get_current_user_id,
    set_current_user_id,
    user_context,
)

__all__ = ["clear_current_user_id", "get_current_user_id", "set_current_user_id", "user_context"]

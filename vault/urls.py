"""The vault's URLs, below /admin/vault/ and before the admin site's own. Control plane."""

from django.contrib import admin
from django.urls import path

from vault import pages, rotation_pages, slot_pages

app_name = "vault"
_within = admin.site.admin_view

urlpatterns = [
    path("", _within(pages.show_status), name="status"),
    path("live/", _within(pages.show_live), name="live"),
    path("initialise/", _within(pages.initialise), name="initialise"),
    path("strength/", _within(pages.show_strength), name="strength"),
    path("recovery-kept/", _within(pages.confirm_kept), name="recovery_kept"),
    path("unlock/", _within(pages.unlock), name="unlock"),
    path("lock/", _within(pages.lock), name="lock"),
    path("settings/", _within(pages.change_settings), name="settings"),
    path("check/", _within(pages.check), name="check"),
    path("accept-rows/", _within(pages.accept_rows), name="accept_rows"),
    path("change-password/", _within(slot_pages.change_password), name="change_password"),
    path("try-recovery-key/", _within(slot_pages.try_recovery), name="try_recovery"),
    path("slots/add/", _within(slot_pages.choose_kind), name="add_slot"),
    path("slots/add/<str:kind>/", _within(slot_pages.add_slot), name="add_slot_of"),
    path("slots/<str:slot_id>/rename/", _within(slot_pages.rename_slot), name="rename_slot"),
    path("slots/<str:slot_id>/remove/", _within(slot_pages.remove_slot), name="remove_slot"),
    path("rotate-data-key/", _within(rotation_pages.rotate_data_key), name="rotate_data_key"),
    path("rotate-data-key/progress/", _within(rotation_pages.show_progress), name="progress"),
    path("rotate-root/", _within(rotation_pages.rotate_root), name="rotate_root"),
]

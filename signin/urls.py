"""The door's URLs, below /admin/ and before the admin site's own: signing in is ours. Control plane."""

from django.contrib import admin
from django.urls import path

from signin import pages

app_name = "signin"
urlpatterns = [
    path("login/", pages.SignInPage.as_view(), name="login"),
    path("login/code/", pages.enter_code, name="code"),
    path("confirm/", admin.site.admin_view(pages.confirm), name="confirm"),
    path("second-factor/", admin.site.admin_view(pages.show_second_factor), name="second_factor"),
    path("second-factor/enrol/", admin.site.admin_view(pages.enrol), name="enrol"),
    path("second-factor/recovery-codes/", admin.site.admin_view(pages.renew_codes), name="recovery_codes"),
    path("second-factor/remove/", admin.site.admin_view(pages.remove), name="remove"),
]

"""Django's settings. Control plane. Everything that differs between installations is in `tokenhub.environment`."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path
from typing import Any

from environ import Env

from tokenhub.environment import (
    BASE_DIR,
    TokenhubSettings,
    list_secrets,
    load_settings,
    with_data_folder,
    with_generated_secrets,
)
from tokenhub.logs import build_logging
from tokenhub.redaction import remember

TOKENHUB: TokenhubSettings = with_generated_secrets(with_data_folder(load_settings(os.environ)))
remember(list_secrets(TOKENHUB))

SECRET_KEY = TOKENHUB.secret_key
DEBUG = TOKENHUB.debug
ALLOWED_HOSTS = list(TOKENHUB.allowed_hosts)
CSRF_TRUSTED_ORIGINS = list(TOKENHUB.csrf_trusted_origins)

INSTALLED_APPS = [
    "unfold",
    "unfold.contrib.filters",
    "unfold.contrib.forms",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "django_filters",
    "channels",
    "django_prometheus",
    "axes",
    "console",
    "snapshots",
    "usage",
    "access",
    "routing",
    "providers",
    "vault",
    "signin",
]

MIDDLEWARE = [
    "tokenhub.control.typed_secrets.TypedSecretsMiddleware",
    "django_prometheus.middleware.PrometheusBeforeMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "tokenhub.content_security.ContentSecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "signin.sessions.SessionLimits",
    "signin.requirement.SecondFactorRequirement",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "console.sessions.RefusalMiddleware",
    "django_prometheus.middleware.PrometheusAfterMiddleware",
    "axes.middleware.AxesMiddleware",
]
PROMETHEUS_EXPORT_MIGRATIONS = False

ROOT_URLCONF = "tokenhub.urls"
ASGI_APPLICATION = "tokenhub.asgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]


def _sqlite(path: str) -> dict[str, Any]:
    """One file, several processes: readers beside one writer, and a write that waits for its turn from the start.

    A deferred transaction that reads before it writes fails at once, whatever the timeout; hence IMMEDIATE.
    """
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": path,
        "CONN_MAX_AGE": 0,
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA foreign_keys=ON;",
        },
    }


def _postgres(parsed: dict[str, Any]) -> dict[str, Any]:
    """A pool with its own bounds. CONN_MAX_AGE stays 0: under ASGI each request has its own thread and would leak one."""
    options = dict(parsed.get("OPTIONS", {}))
    options["pool"] = {
        "min_size": TOKENHUB.database_pool_min,
        "max_size": TOKENHUB.database_pool_max,
        "timeout": 10,
        "max_lifetime": 1800,
        "max_idle": 300,
    }
    return {**parsed, "CONN_MAX_AGE": 0, "CONN_HEALTH_CHECKS": True, "OPTIONS": options}


def _database() -> dict[str, Any]:
    if not TOKENHUB.database_url:
        return _sqlite(str(TOKENHUB.data_dir / "tokenhub.sqlite3"))
    parsed = Env.db_url_config(TOKENHUB.database_url, engine=None)
    if parsed["ENGINE"].endswith("sqlite3"):
        return _sqlite(str(parsed["NAME"]))
    return _postgres(parsed)


DATABASES = {"default": _database()}

AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]

# --- Signing in ---------------------------------------------------------------------------------------------------------
AUTHENTICATION_BACKENDS = ["axes.backends.AxesStandaloneBackend", "signin.backends.Accounts"]
# The limits themselves, and why they are as they are, are in `signin.limits`.
AXES_HANDLER = "signin.limits.SignInLimits"
AXES_CLIENT_IP_CALLABLE = "signin.limits.address_of_client"
AXES_LOCKOUT_CALLABLE = "signin.limits.locked_response"
AXES_LOCKOUT_PARAMETERS = [["username", "ip_address"]]
AXES_FAILURE_LIMIT = 5
AXES_COOLOFF_TIME = timedelta(minutes=15)
AXES_RESET_ON_SUCCESS = True
AXES_RESET_COOL_OFF_ON_FAILURE_DURING_LOCKOUT = False
AXES_SENSITIVE_PARAMETERS = ["username", "ip_address", "code", "csrfmiddlewaretoken"]
AXES_ENABLE_ADMIN = False
AXES_VERBOSE = False

LANGUAGE_CODE = "en"
TIME_ZONE = "UTC"
USE_I18N = False
USE_TZ = True
FORMAT_MODULE_PATH = ["console.formats"]

STATIC_URL = "/static/"
STATICFILES_DIRS: list[Path] = [BASE_DIR / "static"]
STATIC_ROOT = TOKENHUB.static_root
# Collected files have their digest in their names. Without a collection (tests, `make run`) they are served from where
# they lie, so that an edited one can't be hidden by an older copy.
WHITENOISE_USE_FINDERS = STATIC_ROOT is None
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {
        "BACKEND": "django.contrib.staticfiles.storage.StaticFilesStorage"
        if STATIC_ROOT is None
        else "whitenoise.storage.CompressedManifestStaticFilesStorage"
    },
}
MEDIA_ROOT = TOKENHUB.data_dir / "media"

# --- Security: `manage.py check --deploy` is clean with TOKENHUB_HTTPS=true -------------------------------------------
SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = TOKENHUB.https
# Browsers take `__Host-` names only from this very host, over HTTPS, for the whole site: no neighbour can plant one.
SESSION_COOKIE_NAME, CSRF_COOKIE_NAME = (
    ("__Host-sessionid", "__Host-csrftoken") if TOKENHUB.https else ("sessionid", "csrftoken")
)
SESSION_COOKIE_HTTPONLY = CSRF_COOKIE_HTTPONLY = True
SESSION_ENGINE = "signin.session_store"
# Lax, not Strict: a link from a message to a page of the console would else lead to the sign-in.
SESSION_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SAMESITE = "Strict"
SESSION_COOKIE_AGE = (
    12 * 3600
)  # `signin.sessions` ends them sooner: after 30 minutes idle, 12 hours from signing in
SECURE_SSL_REDIRECT = TOKENHUB.https
SECURE_HSTS_SECONDS = 365 * 24 * 3600 if TOKENHUB.https else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = TOKENHUB.https
SECURE_REFERRER_POLICY = "same-origin"
SECURE_CROSS_ORIGIN_OPENER_POLICY = "same-origin"
PERMISSIONS_POLICY = "camera=(), geolocation=(), microphone=(), payment=(), usb=()"
# No SECURE_PROXY_SSL_HEADER: the server sets the scheme from X-Forwarded-Proto, of TOKENHUB_TRUSTED_PROXIES only.
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "default-src": "'self'",
    "script-src": "'self'",
    "style-src": "'self' 'unsafe-inline'",  # Unfold's templates carry style attributes
    "img-src": "'self' data:",
    "connect-src": "'self'",
    "object-src": "'none'",
    "base-uri": "'self'",
    "form-action": "'self'",
    "frame-ancestors": "'none'",
}

# --- The admin REST API ---------------------------------------------------------------------------------------------
REST_FRAMEWORK: dict[str, Any] = {
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "access.authentication.AdminTokenAuthentication",
        "rest_framework.authentication.SessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["rest_framework.permissions.DjangoModelPermissions"],
    "DEFAULT_FILTER_BACKENDS": [
        "django_filters.rest_framework.DjangoFilterBackend",
        "rest_framework.filters.OrderingFilter",
    ],
    "DEFAULT_RENDERER_CLASSES": ["rest_framework.renderers.JSONRenderer"],
    "DEFAULT_PARSER_CLASSES": ["rest_framework.parsers.JSONParser"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
}
SPECTACULAR_SETTINGS: dict[str, Any] = {
    "TITLE": "Tokenhub admin API",
    "DESCRIPTION": "Providers, models, aliases, teams, keys and usage. The same permissions as the admin pages.",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    "SCHEMA_PATH_PREFIX": "/admin/v1",
    "ENUM_NAME_OVERRIDES": {
        "ApiKeyScope": "tokenhub.core.specs.SCOPES",
        "AdminScope": "tokenhub.control.actors.ADMIN_SCOPES",
    },
    # Deep links would be links inside buttons, which no screen reader can make sense of.
    "SWAGGER_UI_SETTINGS": {"deepLinking": False},
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
}

# Also with DEBUG: what a page for developers shows of a request goes into bug reports.
DEFAULT_EXCEPTION_REPORTER = "tokenhub.control.error_reports.SecretsReporter"
DEFAULT_EXCEPTION_REPORTER_FILTER = "tokenhub.control.error_reports.SecretsFilter"

LOGGING = build_logging(TOKENHUB.log_level, TOKENHUB.log_format)

"""The pages of the door: signing in, the second factor's step, setting it up and removing it, confirming again. Control plane."""

from __future__ import annotations

import hmac
from datetime import UTC, datetime, timedelta
from typing import Any

from django.conf import settings
from django.contrib import admin, messages
from django.contrib.auth import REDIRECT_FIELD_NAME, SESSION_KEY, authenticate, login
from django.contrib.auth.views import LoginView, redirect_to_login
from django.http import HttpRequest, HttpResponse, HttpResponseBase, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import reverse
from django.utils import timezone
from django.utils.decorators import method_decorator
from django.utils.safestring import mark_safe
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_protect
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods
from unfold.forms import AuthenticationForm

from signin import actions, totp
from signin.backends import Accounts, find_sign_in
from signin.forms import CodeForm, ConfirmForm, EnrolForm
from signin.limits import address_of_client, find_lock, locked_page, note_failure
from signin.recent import recently_confirmed
from signin.requirement import must_have
from signin.sessions import CONFIRMED, SECOND_FACTOR, STARTED
from tokenhub.control.actors import Actor
from tokenhub.control.callers import actor_of, address_of, next_url
from tokenhub.control.display import write_refusal
from tokenhub.core.errors import TokenhubError

PENDING = "signin_pending"
PENDING_FOR = timedelta(minutes=5)
OFFERED = "signin_offered"
BACKEND = "signin.backends.Accounts"
WRONG = "That code is not right, or it was used already."
safe_page = method_decorator(
    [sensitive_post_parameters(), csrf_protect, never_cache, require_http_methods(["GET", "HEAD", "POST"])],
    name="dispatch",
)


@safe_page
class SignInPage(LoginView):
    """Name and password. With a second factor nobody is signed in yet: the session keeps who has passed so far."""

    template_name = "admin/login.html"
    authentication_form = AuthenticationForm

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        """Those who are in go to the overview."""
        if request.method == "GET" and admin.site.has_permission(request):
            return HttpResponseRedirect(reverse("admin:index"))
        request.current_app = admin.site.name  # type: ignore[attr-defined]
        return super().dispatch(request, *args, **kwargs)

    def get_default_redirect_url(self) -> str:
        """The overview."""
        return reverse("admin:index")

    def get_context_data(self, **kwargs: Any) -> dict[str, Any]:
        """What Django's own page has."""
        path = self.request.get_full_path()
        frame = {
            **admin.site.each_context(self.request),
            "title": "Log in",
            "subtitle": None,
            "app_path": path,
        }
        context = {**super().get_context_data(**kwargs), **frame}
        context[REDIRECT_FIELD_NAME] = self.get_success_url()
        return context

    def form_valid(self, form: Any) -> HttpResponse:
        """Signs in, or goes on to the second factor."""
        user = form.get_user()
        door = find_sign_in(user)
        if door is None or not door.is_enrolled:
            login(self.request, user, BACKEND)
            return HttpResponseRedirect(self.get_success_url())
        if SESSION_KEY in self.request.session:
            self.request.session.flush()
        self.request.session.cycle_key()
        self.request.session[PENDING] = {
            "user": user.pk,
            "proof": user.get_session_auth_hash(),
            "until": (timezone.now() + PENDING_FOR).timestamp(),
            "next": self.get_success_url(),
        }
        return HttpResponseRedirect(reverse("signin:code"))


def find_pending(request: HttpRequest, now: datetime) -> tuple[Any, str] | None:
    """Who has given the right password within PENDING_FOR and still has it, and where to go then."""
    pending = request.session.get(PENDING)
    if not pending or now >= datetime.fromtimestamp(pending["until"], UTC):
        return None
    user = Accounts().get_user(pending["user"])
    if user is None or not hmac.compare_digest(pending["proof"], user.get_session_auth_hash()):
        return None
    return user, str(pending["next"])


@sensitive_post_parameters()
@csrf_protect
@never_cache
@require_http_methods(["GET", "HEAD", "POST"])
def enter_code(request: HttpRequest) -> HttpResponseBase:
    """The second step of signing in."""
    now = timezone.now()
    found = find_pending(request, now)
    if found is None:
        messages.info(request, "Please sign in first.")
        return redirect_to_login(reverse("admin:index"), reverse("admin:login"))
    user, next_url = found
    if (locked := _refuse_locked(request, user, now)) is not None:
        return locked
    form = CodeForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        actor = Actor.from_user(user, address_of(request))
        if actions.spend_code(actor, user, form.cleaned_data["code"], now):
            del request.session[PENDING]
            login(request, user, BACKEND)
            request.session[SECOND_FACTOR] = True
            return HttpResponseRedirect(next_url)
        note_failure(request, user.get_username())
        form.add_error("code", WRONG)
    return _page(request, "signin/code.html", "Second factor", form=form)


def _refuse_locked(request: HttpRequest, user: Any, now: datetime) -> HttpResponse | None:
    """The page for too many failures, by the limits of signing in or by the account's own on codes."""
    lock = find_lock(user.get_username(), address_of_client(request), now)
    if lock is not None:
        return locked_page(request, lock.seconds(now))
    door = find_sign_in(user)
    until = actions.find_code_lock(door, now) if door is not None else None
    return None if until is None else locked_page(request, max(1, int((until - now).total_seconds())))


def _page(request: HttpRequest, template: str, title: str, **context: Any) -> TemplateResponse:
    request.current_app = admin.site.name  # type: ignore[attr-defined]
    return TemplateResponse(
        request, template, {**admin.site.each_context(request), "title": title, **context}
    )


def show_second_factor(request: HttpRequest) -> HttpResponse:
    """Whether the person has one, and what can be done."""
    door = find_sign_in(request.user)
    enrolled = door is not None and door.is_enrolled
    left = door.recovery_codes.count() if door is not None and enrolled else 0
    context = {"door": door, "enrolled": enrolled, "left": left, "required": must_have(request.user)}
    return _page(request, "signin/second_factor.html", "Second factor", **context)


@sensitive_variables()
@recently_confirmed
def enrol(request: HttpRequest) -> HttpResponseBase:
    """Shows a new secret until a code of it is right; then the recovery codes, once."""
    door = find_sign_in(request.user)
    if door is not None and door.is_enrolled:
        return HttpResponseRedirect(reverse("signin:second_factor"))
    secret = _offer(request)
    form = EnrolForm(request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        now = timezone.now()
        try:
            code = "".join(form.cleaned_data["code"].split())
            codes = actions.enrol(actor_of(request), request.user, secret, code, now)
        except TokenhubError as refused:
            form.add_error("code", write_refusal(refused.message, refused.hint))
        else:
            del request.session[OFFERED]
            request.session[SECOND_FACTOR] = True
            request.session[STARTED] = now.timestamp()
            request.session.cycle_key()
            return _show_codes(request, codes)
    uri = totp.enrolment_uri(secret, request.user.get_username(), request.get_host())
    return _page(
        request,
        "signin/enrol.html",
        "Set up a second factor",
        form=form,
        required=must_have(request.user),
        secret=totp.write_secret(secret),
        # The library's own drawing of our own text: nothing of it is markup that somebody wrote.
        picture=mark_safe(totp.draw_qr(uri)),  # noqa: S308
    )


def _offer(request: HttpRequest) -> bytes:
    """The secret that this session offers: a new one with each visit, the same while its code is typed."""
    user = request.user.pk
    offered = request.session.get(OFFERED)
    if request.method == "POST" and offered:
        try:
            return totp.open_sealed(offered, user, settings.SECRET_KEY)
        except totp.SecretUnreadable:
            pass
    secret = totp.make_secret()
    request.session[OFFERED] = totp.seal(secret, user, settings.SECRET_KEY)
    return secret


def _show_codes(request: HttpRequest, codes: list[str]) -> HttpResponse:
    """The page that shows recovery codes once. Nothing keeps them: not the session, no cache, no URL."""
    back = reverse("signin:second_factor")
    return _page(request, "signin/recovery_codes.html", "Recovery codes", codes=codes, back_url=back)


@sensitive_variables()
@recently_confirmed
def renew_codes(request: HttpRequest) -> HttpResponseBase:
    """New recovery codes."""
    if request.method == "POST":
        try:
            return _show_codes(request, actions.renew_recovery_codes(actor_of(request), request.user))
        except TokenhubError as refused:
            messages.error(request, write_refusal(refused.message, refused.hint))
            return HttpResponseRedirect(reverse("signin:second_factor"))
    return _confirm(
        request, "New recovery codes", "Make new recovery codes?", ["The old ones are refused at once."]
    )


@recently_confirmed
def remove(request: HttpRequest) -> HttpResponseBase:
    """Takes the person's own second factor away."""
    if request.method == "POST":
        now = timezone.now()
        try:
            actions.remove_second_factor(actor_of(request), request.user, now)
        except TokenhubError as refused:
            messages.error(request, write_refusal(refused.message, refused.hint))
        else:
            request.session[STARTED] = now.timestamp()
            request.session.pop(SECOND_FACTOR, None)
            messages.success(request, "Your second factor is removed; your other sessions have ended.")
        return HttpResponseRedirect(reverse("signin:second_factor"))
    breaks = ["From now on your password alone is enough to sign in.", "Your other sessions end."]
    if must_have(request.user):
        breaks[0] = "You have to set up another one before you can go on."
    return _confirm(request, "Remove second factor", "Remove your second factor?", breaks, danger=True)


def _confirm(
    request: HttpRequest, title: str, question: str, breaks: list[str], *, danger: bool = False
) -> HttpResponse:
    back = reverse("signin:second_factor")
    context = {"question": question, "consequences": breaks, "button": title, "danger": danger}
    return _page(request, "console/confirm.html", title, back_url=back, **context)


@sensitive_variables()
@sensitive_post_parameters()
def confirm(request: HttpRequest) -> HttpResponseBase:
    """Asks who it is once more; what is grave needs it within 5 minutes before."""
    now = timezone.now()
    user: Any = request.user
    door = find_sign_in(user)
    if (locked := _refuse_locked(request, user, now)) is not None:
        return locked
    with_code = door is not None and door.is_enrolled
    form = ConfirmForm(request.POST if request.method == "POST" else None, with_code=with_code)
    if request.method == "POST" and form.is_valid():
        given = form.cleaned_data
        name = user.get_username()
        if authenticate(request, username=name, password=given["password"]) != user:
            form.add_error("password", "That is not your password.")
        elif with_code and not actions.spend_code(actor_of(request), user, given["code"], now):
            note_failure(request, name)
            form.add_error("code", WRONG)
        else:
            request.session[CONFIRMED] = now.timestamp()
            return HttpResponseRedirect(next_url(request, reverse("admin:index")))
    return _page(request, "signin/confirm.html", "Confirm that it is you", form=form)

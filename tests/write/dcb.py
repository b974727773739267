"""The published examples of dynamic consistency boundaries (dcb.events), as short programs.

Rules: each is one boundary or two, and one function. Times come from the context, in µs. An event
has one value of each tag: what goes from one username to another is two events of one decision.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from engine import (
    Aggregate,
    Boundary,
    Command,
    Context,
    Decision,
    Event,
    Id,
    Rejected,
    applies,
    decides,
)

__all__ = [
    "DECISIONS",
    "KINDS",
    "MINUTE",
    "Buy",
    "ChangePrice",
    "Close",
    "Confirm",
    "Place",
    "Register",
    "Rename",
    "SignUp",
]

MINUTE: Final = 60_000_000
RETENTION: Final = 3 * 24 * 60 * MINUTE
TOKEN_LIVES: Final = 60 * MINUTE
PRICE_STANDS: Final = 10 * MINUTE


# -- a username is unique, and is kept for three days after its account is closed ----------------


class NameTaken(Event, name="name-taken", tags=("username",)):
    username: str


class NameReleased(Event, name="name-released", tags=("username",)):
    username: str
    at: int


class Username(Boundary, tags=("username",)):
    is_taken: bool = False
    free_from: int = 0

    @applies
    def taken(self, event: NameTaken) -> None:
        self.is_taken = True

    @applies
    def released(self, event: NameReleased) -> None:
        self.is_taken, self.free_from = False, event.at + RETENTION

    def check(self, now: int) -> None:
        if self.is_taken or now < self.free_from:
            raise Rejected("name-taken", f"{self.id} is taken")


class Register(Command):
    username: Id


class Close(Command):
    username: Id


class Rename(Command):
    old: Id
    new: Id


@decides
def register(command: Register, username: Username, ctx: Context) -> NameTaken:
    username.check(ctx.now)
    return NameTaken(username.id)


@decides
def close(command: Close, username: Username, ctx: Context) -> NameReleased | None:
    return NameReleased(username.id, ctx.now) if username.is_taken else None


@decides
def rename(
    command: Rename, old: Username, new: Username, ctx: Context
) -> list[NameReleased | NameTaken]:
    new.check(ctx.now)
    return [NameReleased(old.id, ctx.now), NameTaken(new.id)]


# -- a token that was sent by mail confirms an account once, for an hour --------------------------


class SignedUp(Event, name="signed-up", tags=("email", "token")):
    email: str
    token: str
    at: int


class Confirmed(Event, name="confirmed", tags=("email", "token")):
    email: str
    token: str


class OptIn(Boundary, tags=("email", "token")):
    begun: int = 0
    is_used: bool = False

    @applies
    def signed_up(self, event: SignedUp) -> None:
        self.begun = event.at

    @applies
    def confirmed(self, event: Confirmed) -> None:
        self.is_used = True


class SignUp(Command):
    email: Id
    token: Id


class Confirm(Command):
    email: Id
    token: Id


@decides
def sign_up(command: SignUp, opt_in: OptIn, ctx: Context) -> SignedUp:
    return SignedUp(command.email, command.token, ctx.now)


@decides
def confirm(command: Confirm, opt_in: OptIn, ctx: Context) -> Confirmed:
    if not opt_in.begun:
        raise Rejected("no-token", "this token is not of this address")
    if opt_in.is_used:
        raise Rejected("used", "the token was used")
    if ctx.now > opt_in.begun + TOKEN_LIVES:
        raise Rejected("expired", "the token has expired")
    return Confirmed(command.email, command.token)


# -- the price that a customer was shown stands for ten minutes, for each product of a cart ------


class Priced(Event, name="priced", tags=("product",)):
    product: str
    cents: int
    at: int


class Price(Boundary, tags=("product",)):
    cents: int = 0
    before: dict[str, int] = {}
    """Former prices, and until when they were shown."""

    @applies
    def priced(self, event: Priced) -> None:
        if self.cents:
            self.before[str(self.cents)] = event.at
        self.cents = event.cents

    def stands(self, cents: int, now: int) -> bool:
        return cents == self.cents or now <= self.before.get(str(cents), 0) + PRICE_STANDS


class Bought(Event, name="bought", tags=("cart",)):
    cart: str
    cents: int


class Cart(Boundary, tags=("cart",)):
    is_bought: bool = False

    @applies
    def bought(self, event: Bought) -> None:
        self.is_bought = True


class ChangePrice(Command):
    product: Id
    cents: int


class Buy(Command[int]):
    cart: Id
    products: list[Id]
    cents: list[int]
    """What was shown for each."""


@decides
def change_price(command: ChangePrice, product: Price, ctx: Context) -> Priced:
    return Priced(product.id, command.cents, ctx.now)


@decides
def buy(command: Buy, cart: Cart, products: list[Price], ctx: Context) -> Decision[Bought, int]:
    for product, cents in zip(products, command.cents, strict=True):
        if not product.stands(cents, ctx.now):
            raise Rejected("other-price", f"{product.id} costs {product.cents}")
    total = sum(command.cents)
    return Decision(Bought(cart.id, total), reply=total)


# -- a record is made once for each token of its form ---------------------------------------------


class Placed(Event, name="placed", tags=("order", "form")):
    order: str
    form: str


class Form(Boundary, tags=("form",)):
    is_used: bool = False

    @applies
    def placed(self, event: Placed) -> None:
        self.is_used = True


class Place(Command):
    order: str
    form: Id


@decides
def place(command: Place, form: Form) -> Placed:
    if form.is_used:
        raise Rejected("again", "this form was sent before")
    return Placed(command.order, command.form)


KINDS: list[type[Aggregate]] = [Username, OptIn, Price, Cart, Form]
DECISIONS: list[Callable[..., Any]] = [
    register,
    close,
    rename,
    sign_up,
    confirm,
    change_price,
    buy,
    place,
]

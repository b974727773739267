// Figures and times as people read them. Everything here is a function of its argument.

const pounds = new Intl.NumberFormat("en-GB", { style: "currency", currency: "GBP" });
const wholePounds = new Intl.NumberFormat("en-GB", {
  style: "currency", currency: "GBP", notation: "compact", maximumFractionDigits: 1,
});
const counts = new Intl.NumberFormat("en-GB");
// The shop's own times have no zone: they are shown as they stand.
const shopTimes = new Intl.DateTimeFormat("en-GB", {
  day: "numeric", month: "short", hour: "2-digit", minute: "2-digit", timeZone: "UTC",
});
const shopDays = new Intl.DateTimeFormat("en-GB", { weekday: "short", day: "numeric", month: "short", timeZone: "UTC" });
const shopDates = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", timeZone: "UTC" });
const shopMoments = new Intl.DateTimeFormat("en-GB", {
  weekday: "short", day: "numeric", month: "short", year: "numeric",
  hour: "2-digit", minute: "2-digit", timeZone: "UTC",
});
const moments = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });

const at = (text) => new Date(`${text.length > 10 ? text : `${text}T00:00:00`}Z`);

export const money = (pence) => pounds.format(pence / 100);
export const shortMoney = (pence) => wholePounds.format(pence / 100);
export const count = (number) => counts.format(number);
export const shopTime = (text) => shopTimes.format(at(text));
export const shopDay = (text) => shopDays.format(at(text));
export const shopDate = (text) => shopDates.format(at(text));
export const shopMoment = (text) => shopMoments.format(at(text));
export const recorded = (microseconds) => moments.format(new Date(microseconds / 1000));
export const plural = (number, what) => `${count(number)} ${what}${number === 1 ? "" : "s"}`;

const STATUS = { none: "not there yet", created: "waiting", shipped: "shipped", cancelled: "called off" };
export const status = (name) => STATUS[name] ?? name;

const EVENTS = {
  "order-created": "created",
  "order-item-quantity-adjusted": "quantity changed",
  "order-quoted": "quoted",
  "order-shipped": "shipped",
  "order-cancelled": "called off",
};
export const event = (name) => EVENTS[name] ?? name;

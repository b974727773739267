// Sales by day, a bar for each, piled up by country; a country of the legend can be shown alone.
import { cell, drawn, fill, made, there } from "./dom.js";
import { count, money, plural, shopDate, shopDay, shortMoney } from "./format.js";

const COUNTRIES = 5;
const TICKS = 4;
const LEFT = 52;
const LABEL = 48;
const BOTTOM = 24;
const TOP = 8;
const OTHERS = "other countries";

let shown = { days: [], countries: [] };
let only = null;
const colours = new Map();

export function drawChart(shop) {
  if (JSON.stringify([shop.days, shop.countries]) === JSON.stringify([shown.days, shown.countries])) return;
  shown = shop;
  draw();
}

new ResizeObserver(() => draw()).observe(there("chart"));

function draw() {
  const names = shown.countries.slice(0, COUNTRIES).map((row) => row.country);
  keepColours(names);
  const days = piled(names);
  const series = [...names, OTHERS].filter((name) => days.some((day) => day.sales.has(name)));
  there("chart-none").hidden = days.length > 0;
  legend(series);
  table(days);
  const { clientWidth: width, clientHeight: height } = there("chart");
  if (width === 0 || days.length === 0) {
    there("chart").replaceChildren();
    return;
  }
  there("chart").replaceChildren(plot(days, series, width, height));
}

// A country keeps its colour for as long as it is shown, whichever place it comes to.
function keepColours(names) {
  for (const name of colours.keys()) if (!names.includes(name)) colours.delete(name);
  for (const name of names) {
    const taken = new Set(colours.values());
    if (!colours.has(name)) colours.set(name, names.findIndex((_, n) => !taken.has(n)));
  }
}

// Gives each day with the sales of each series.
function piled(names) {
  const days = new Map();
  for (const row of shown.days) {
    const series = names.includes(row.country) ? row.country : OTHERS;
    const day = days.get(row.day) ?? { day: row.day, orders: 0, sales: new Map() };
    day.orders += row.orders;
    day.sales.set(series, (day.sales.get(series) ?? 0) + row.sales);
    days.set(row.day, day);
  }
  return [...days.values()];
}

const seen = (day, name) => (only === null || only === name ? Math.max(0, day.sales.get(name) ?? 0) : 0);
const colour = (name) => `s${colours.get(name) ?? COUNTRIES}`;
const height = (day, series) => series.reduce((sum, name) => sum + seen(day, name), 0);

function plot(days, series, width, tall) {
  const most = nice(Math.max(1, ...days.map((day) => height(day, series))));
  const scale = (tall - TOP - BOTTOM) / most;
  const step = (width - LEFT) / days.length;
  const floor = tall - BOTTOM;
  const svg = drawn("svg", { viewBox: `0 0 ${width} ${tall}`, role: "img", "aria-label": described(days) });
  for (let tick = 0; tick <= TICKS; tick += 1) {
    const y = floor - (tick * most * scale) / TICKS;
    svg.append(
      drawn("line", { x1: LEFT, x2: width, y1: y, y2: y, class: "grid" }),
      drawn("text", { x: LEFT - 8, y: y + 4, "text-anchor": "end" }, shortMoney((tick * most) / TICKS)),
    );
  }
  const every = Math.ceil(LABEL / step);
  days.forEach((day, n) => {
    const x = LEFT + n * step;
    svg.append(bar(day, series, x + step * 0.14, step * 0.72, floor, scale));
    if (n % every === 0) {
      const middle = { x: x + step / 2, y: tall - 6, "text-anchor": "middle" };
      svg.append(drawn("text", middle, shopDate(day.day)));
    }
  });
  return svg;
}

function bar(day, series, x, width, floor, scale) {
  const group = drawn("g", { class: "day" }, drawn("title", {}, told(day, series)));
  let y = floor;
  series.forEach((name) => {
    const tall = seen(day, name) * scale;
    if (tall <= 0) return;
    y -= tall;
    group.append(drawn("rect", { class: colour(name), x, y, width, height: tall, rx: 1.5 }));
  });
  return group;
}

function told(day, series) {
  const parts = series.filter((name) => seen(day, name) > 0).map((name) => `${name} ${money(seen(day, name))}`);
  return `${shopDay(day.day)}, ${plural(day.orders, "order")}\n${parts.join("\n")}`;
}

function described(days) {
  return `Sales of ${plural(days.length, "day")}, as in the table below`;
}

// The next number that people like for the top of an axis.
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 5, 8, 10].map((n) => n * power).find((n) => n >= value);
}

function legend(series) {
  const box = there("legend");
  const wanted = JSON.stringify([series, only]);
  if (box.dataset.shown === wanted) return;
  box.dataset.shown = wanted;
  box.replaceChildren(...series.map((name) => {
    const swatch = made("span", { class: `swatch ${colour(name)}`, "aria-hidden": "true" });
    const pressed = { type: "button", "aria-pressed": String(only === name), click: () => choose(name) };
    return made("button", pressed, swatch, name);
  }));
}

function choose(name) {
  only = only === name ? null : name;
  draw();
  // It was drawn anew.
  [...there("legend").children].find((button) => button.textContent === name)?.focus();
}

function table(days) {
  fill("days", days, (day) => day.day, (day) => [
    cell(shopDay(day.day)),
    cell(count(day.orders), "number"),
    cell(money([...day.sales.values()].reduce((sum, sales) => sum + sales, 0)), "number"),
  ]);
}

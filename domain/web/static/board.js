// The board: figures, orders that wait or were shipped, and what sells best.
import { cell, fill, made, say, there } from "./dom.js";
import { count, money, shopTime } from "./format.js";
import { openOrder } from "./order.js";

export function drawBoard(shop) {
  document.title = `(${count(shop.pending)}) The shop, live`;
  say("orders-count", count(shop.totals.orders));
  say("pending-count", count(shop.pending));
  say("shipped-count", count(shop.shipped));
  say("sales-total", money(shop.totals.sales));
  say("refunds-total", money(shop.totals.refunds));
  orders("pending", shop.newest);
  orders("sent", shop.sent);
  const more = there("pending-more");
  more.hidden = shop.pending <= shop.newest.length;
  more.textContent = `and ${count(shop.pending - shop.newest.length)} more`;
  sellers(shop.best_sellers);
}

function orders(id, list) {
  fill(id, list, (order) => order.order_id, (order) => [
    opening(order.order_id),
    cell(order.country),
    cell(shopTime(order.invoiced_at), "wide time"),
    cell(money(order.total), "number"),
  ]);
}

function opening(id) {
  const open = made("button", { type: "button", title: id, click: () => openOrder(id) }, id);
  return cell(open, "code");
}

function sellers(products) {
  fill("sellers", products, (product) => product.product, (product) => {
    const name = made("span", { class: "name", title: product.product }, product.description || product.product);
    const named = made("td", {}, name, made("span", { class: "share" }));
    return [named, cell(count(product.units_sold), "number wide"), cell(money(product.revenue), "number")];
  });
  // A share is of the best one, which may have changed where the row has not.
  products.forEach((product, n) => {
    const share = Math.max(0, (100 * product.revenue) / (products[0].revenue || 1));
    there("sellers").rows[n].querySelector(".share").style.inlineSize = `${share}%`;
  });
}

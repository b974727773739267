// The live page: one stream of answers, and what is drawn of them.
import { follow } from "./basket.js";
import { drawBoard } from "./board.js";
import { drawChart } from "./chart.js";
import { beginDemo } from "./demo.js";
import { orderMoved } from "./order.js";
import "./search.js";
import { watch } from "./stream.js";

watch((shop) => {
  drawBoard(shop);
  drawChart(shop);
  follow(shop);
  orderMoved(shop);
});
beginDemo();

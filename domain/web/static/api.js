// The page of the API: made of the OpenAPI document of this very server, and of nothing else.
import { made, there } from "./dom.js";
import { ask } from "./http.js";

const SCHEMAS = "#/components/schemas/";
let schemas = {};

function operation(path, method, said) {
  return made("details", { class: "card", id: said.operationId },
    made("summary", {},
      made("span", { class: `method ${method}` }, method.toUpperCase()), made("code", {}, path), made("span", {}, said.summary)),
    made("div", { class: "inside" }, ...parameters(said), ...body(said), ...answers(said)));
}

function parameters({ parameters: list }) {
  if (!list.length) return [];
  const rows = list.map((one) => made("tr", {},
    made("td", {}, made("code", {}, one.name)), made("td", {}, one.in + (one.required ? ", required" : "")),
    made("td", {}, ...prose(one.description))));
  return [made("h3", {}, "Parameters"), made("table", {}, made("tbody", {}, ...rows))];
}

function body({ requestBody: said }) {
  if (!said) return [];
  const [type, { schema }] = Object.entries(said.content)[0];
  const struct = schemas[schema.$ref?.slice(SCHEMAS.length)] ?? schema;
  return [made("h3", {}, `Body: ${type}${said.required ? "" : ", or none"}`), shown(struct)];
}

// Text with what stands between backticks as code.
function prose(text) {
  return text.split("`").map((piece, n) => (n % 2 ? made("code", {}, piece) : piece));
}

function answers({ responses }) {
  const rows = Object.entries(responses).map(([status, said]) => {
    const [type, content] = Object.entries(said.content ?? {})[0] ?? ["no body", null];
    const what = content ? [`${type}: `, reference(content.schema)] : [type];
    return made("tr", {}, made("td", {}, made("code", {}, status)), made("td", {}, ...prose(said.description)), made("td", {}, ...what));
  });
  return [made("h3", {}, "Answers"), made("table", {}, made("tbody", {}, ...rows))];
}

function schema(name, said) {
  return made("details", { class: "card", id: `schema-${name}` },
    made("summary", {}, made("code", {}, name), made("span", {}, (said.description ?? "").split("\n")[0])),
    made("div", { class: "inside" }, shown(said)));
}

// A schema as people write types: one line for each field.
function shown(said) {
  return made("pre", { class: "schema" }, ...typed(said, ""));
}

function typed(said, indent) {
  if (said.$ref) return [reference(said)];
  if (said.enum) return [said.enum.map((value) => JSON.stringify(value)).join(" | ")];
  if (said.anyOf) return said.anyOf.flatMap((one, n) => [n ? " | " : "", ...typed(one, indent)]);
  if (said.type === "array") return ["[", ...typed(said.items ?? {}, indent), " …]"];
  if (said.type === "object" && said.properties) return fields(said, indent);
  if (said.type === "object") return ["{ ", made("i", {}, "name"), ": ", ...typed(said.additionalProperties || {}, indent), " … }"];
  return [said.type ?? "anything"];
}

function fields(said, indent) {
  const inner = `${indent}  `;
  const lines = Object.entries(said.properties).flatMap(([name, one]) => {
    const optional = said.required?.includes(name) ? "" : "?";
    const about = one.description ? made("i", {}, `   ${one.description}`) : "";
    return [`${inner}${name}${optional}: `, ...typed(one, inner), about, "\n"];
  });
  return ["{\n", ...lines, `${indent}}`];
}

function reference(said) {
  if (!said.$ref) return made("span", {}, ...typed(said, ""));
  const name = said.$ref.slice(SCHEMAS.length);
  return made("a", { href: `#schema-${name}`, click: () => open(`schema-${name}`) }, name);
}

function open(id) {
  const card = there(id);
  if (card) card.open = true;
}

function draw(said) {
  schemas = said.components.schemas;
  const groups = new Map();
  for (const [path, methods] of Object.entries(said.paths)) {
    for (const [method, one] of Object.entries(methods)) {
      const group = one.tags?.[0] ?? "";
      groups.set(group, [...(groups.get(group) ?? []), operation(path, method, one)]);
    }
  }
  const cards = [...groups].flatMap(([group, list]) => [made("h2", {}, group), ...list]);
  const types = Object.entries(schemas).map(([name, one]) => schema(name, one));
  there("api").replaceChildren(...cards, made("h2", {}, "Schemas"), ...types);
  open(location.hash.slice(1));
}

try {
  draw(await ask("/openapi.json"));
} catch (error) {
  there("api-told").textContent = `The document could not be read: ${error.message}`;
}

// The address of a page of the console: what stands behind the # is never sent to a server.
export function address(page, query = {}) {
  const asked = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== null && value !== undefined && value !== ""));
  return `#/${page}${asked.size ? `?${asked}` : ""}`;
}

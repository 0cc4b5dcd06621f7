// The service's HTTP API. Everything that goes over the network goes through here, to this host alone.

export class ApiError extends Error {
  /** @param {number} status @param {string} message @param {number} retryAfter seconds, 0 if none was said */
  constructor(status, message, retryAfter) {
    super(message);
    this.status = status;
    this.retryAfter = retryAfter;
  }
}

let askForKey = async () => {};

/** @param {() => Promise<void>} ask opens the dialog for an API key; resolves when a session is open */
export function onKeyNeeded(ask) {
  askForKey = ask;
}

async function request(path, options = {}) {
  for (let attempt = 0; ; attempt++) {
    const response = await fetch(path, { credentials: "same-origin", ...options });
    if (response.ok) return response.status === 204 ? null : response.json();
    const retryAfter = Number(response.headers.get("Retry-After")) || 0;
    const body = await response.json().catch(() => null);
    const message = body?.error?.message ?? `the service answered ${response.status}`;
    if (response.status === 401 && path !== "/v1/session") {
      await askForKey();
      continue;
    }
    if (response.status === 429 && attempt < 3) {
      await new Promise((done) => setTimeout(done, 1000 * Math.min(retryAfter || 1, 10)));
      options.signal?.throwIfAborted();
      continue;
    }
    throw new ApiError(response.status, message, retryAfter);
  }
}

const json = (body, more = {}) => ({
  method: "POST",
  headers: { "Content-Type": "application/json" },
  body: JSON.stringify(body),
  ...more,
});

export const about = () => request("/v1/about");
export const search = (query, signal) => request("/v1/search", json(query, { signal }));
export const item = (id) => request(`/v1/items/${encodeURIComponent(id)}`);
export const remove = (id) => request(`/v1/items/${encodeURIComponent(id)}`, { method: "DELETE" });
export const describe = (id) => request(`/v1/items/${encodeURIComponent(id)}/describe`, { method: "POST" });
export const locate = (id, phrase) => request(`/v1/items/${encodeURIComponent(id)}/locate`, json({ phrase }));
export const points = () => request("/v1/map");
export const openSession = (key) => request("/v1/session", json({ key }));

/** @param {File[]} files */
export function add(files) {
  const form = new FormData();
  for (const file of files) form.append("files", file, file.name);
  return request("/v1/items", { method: "POST", body: form });
}

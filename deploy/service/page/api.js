// Requests to the service. A fault is an Error with the service's own line; `gone` where nobody answers.
let token = sessionStorage.getItem("token");
let askToken = async () => null;

/** @param {() => Promise<string>} ask how to learn the token when the service wants one */
export function onToken(ask) { askToken = ask; }

export async function call(path, { method = "GET", body, query = {}, signal } = {}) {
  const text = new URLSearchParams(Object.entries(query).filter(([, value]) => value !== "" && value != null)).toString();
  const options = { method, body, signal, headers: {}, cache: "no-store" };
  if (body && !(body instanceof Blob)) {
    options.body = JSON.stringify(body);
    options.headers["Content-Type"] = "application/json";
  }
  for (;;) {
    if (token) options.headers.Authorization = `Bearer ${token}`;
    let answer;
    try {
      answer = await fetch(path + (text && `?${text}`), options);
    } catch (fault) {
      if (fault.name === "AbortError") throw fault;
      throw Object.assign(new Error("gone"), { gone: true });
    }
    if (answer.ok) return answer;
    const said = await answer.json().catch(() => ({}));
    if (answer.status !== 401) throw Object.assign(new Error(said.error || `${answer.status}`), { status: answer.status });
    token = await askToken();
    sessionStorage.setItem("token", token);
  }
}

export const json = async (...request) => (await call(...request)).json();

/** Show a picture of the service in an <img>; with a token it must be fetched, for an <img> cannot send one. */
export async function picture(image, address) {
  image.addEventListener("load", () => image.classList.add("there"), { once: true });
  image.addEventListener("error", () => image.remove(), { once: true });
  if (!token) {
    image.src = address;
    return;
  }
  try {
    image.src = URL.createObjectURL(await (await call(address)).blob());
    image.addEventListener("load", () => URL.revokeObjectURL(image.src), { once: true });
  } catch { image.remove(); }
}

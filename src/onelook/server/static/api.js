// Requests to the server that this page came from.

async function ask(path, body) {
  const options = body === undefined ? {} : {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  };
  let response;
  try {
    response = await fetch(path, { ...options, cache: "no-store" });
  } catch {
    throw new Error("The server does not answer. Start `onelook review` again; all that was saved is kept.");
  }
  if (!response.ok) {
    const found = await response.json().catch(() => ({}));
    throw new Error(found.error || `The server answered ${response.status}.`);
  }
  return response;
}

const json = async (path, body) => (await ask(path, body)).json();

export const images = () => json("/api/images");
export const state = (after) => json(`/api/state?after=${after}`);
export const arrays = async () => (await ask("/api/arrays")).arrayBuffer();
export const answer = (rows, label) => json("/api/answer", { rows, label });
export const answerEach = (rows, labels) => json("/api/answer", { rows, labels });
export const answerNew = (rows, name) => json("/api/answer", { rows, new_class: name });
export const classes = (change) => json("/api/classes", change);
export const undo = () => json("/api/undo", {});
export const redo = () => json("/api/redo", {});
export const exportAs = (kind) => json(`/api/export/${kind}`, {});

// The events of the server, read by fetch: an EventSource could not send the token in a header.

const KEY = "splitft-token";

function takeToken() {
  // The token stands after the #, which browsers do not send; it is taken out of the address bar.
  const found = /[#&]token=([^&]+)/.exec(location.hash);
  if (found) {
    sessionStorage.setItem(KEY, decodeURIComponent(found[1]));
    history.replaceState(null, "", location.pathname);
  }
  return sessionStorage.getItem(KEY);
}

export function patch(run, changed) {
  // The state of a run, and a difference as the server sends it.
  if (changed.whole) return changed.whole;
  const made = {...run, ...(changed.set || {})};
  for (const [key, items] of Object.entries(changed.more || {})) made[key] = [...(run[key] || []), ...items];
  if (changed.clients) made.clients = {...run.clients, ...changed.clients};
  return made;
}

async function read(answer, take) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  for (let rest = "";;) {
    const {done, value} = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      const kind = /^event: (\w+)$/m.exec(part), data = /^data: (.*)$/m.exec(part);
      if (kind && data) take(kind[1], JSON.parse(data[1]));
    }
  }
}

export async function follow(onRuns, onLink) {
  // Calls onRuns(Map of states, server's clock) on news, and onLink(state, text) where the connection changes.
  const runs = new Map();
  let over = false;
  const take = (kind, data) => {
    if (kind === "over") { over = true; return; }
    if (kind === "whole") runs.clear();
    for (const [name, given] of Object.entries(data.runs)) {
      runs.set(name, kind === "whole" ? given : patch(runs.get(name) || {}, given));
    }
    onRuns(runs, data.now);
  };
  for (let wait = 1; ; wait = Math.min(15, 2 * wait)) {
    try {
      const token = takeToken();
      const answer = await fetch("events", {headers: token ? {Authorization: `Bearer ${token}`} : {}, cache: "no-store"});
      if (answer.status === 401) {
        onLink("off", "This page needs its token: open the whole address that splitft printed.");
        return;
      }
      if (answer.ok) {
        over = false;
        wait = 1;
        onLink("on", "live");
        await read(answer, take);
      } else onLink("off", `The server answers ${answer.status}; trying again.`);
    } catch { /* told below */ }
    if (over) onLink("off", "The server has ended: these are its last figures. splitft watch RUN shows them again.");
    else onLink("off", "No connection to the server; trying again.");
    await new Promise(done => setTimeout(done, 1000 * (over ? Math.max(5, wait) : wait)));
  }
}

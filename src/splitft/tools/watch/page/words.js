// Numbers, times and elements. Every text of a run reaches the page by textContent alone.

export function element(tag, given = {}, ...inside) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(given)) {
    if (key === "text") made.textContent = value;
    else if (key === "class") made.className = value;
    else if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...inside);
  return made;
}

export function say(id, text) {
  const found = typeof id === "string" ? document.getElementById(id) : id;
  if (found.textContent !== text) found.textContent = text;
}

export const known = value => value !== null && value !== undefined;

export function count(value) {
  return known(value) ? Math.round(value).toLocaleString("en") : "–";
}

export function figure(value, digits = 3) {
  if (!known(value)) return "–";
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6) return value.toExponential(2);
  if (size >= 10 ** (digits - 1)) return Math.round(value).toLocaleString("en");
  return value.toLocaleString("en", {maximumSignificantDigits: digits, minimumSignificantDigits: digits});
}

export function bytes(value) {
  if (!known(value)) return "–";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let place = 0;
  while (value >= 999.5 && place < units.length - 1) { value /= 1000; place += 1; }
  return `${place ? figure(value) : Math.round(value)} ${units[place]}`;
}

export function percent(share, digits = 1) {
  if (!known(share)) return "–";
  const value = 100 * share, sign = value < 0 ? "−" : value > 0 ? "+" : "";
  return `${sign}${Math.abs(value).toFixed(digits)} %`;
}

export function change(entry) {
  const width = entry.interval ? ` ± ${(100 * entry.interval).toFixed(1)}` : "";
  return known(entry.change) ? percent(entry.change).replace(" %", `${width} %`) : "";
}

export function seconds(value) {
  if (!known(value)) return "–";
  if (value < 60) return `${figure(value)} s`;
  const whole = Math.round(value), hours = Math.floor(whole / 3600), minutes = Math.floor(whole / 60) % 60;
  if (hours >= 48) return `${Math.round(hours / 24)} days`;
  const two = number => String(number).padStart(2, "0");
  return hours ? `${hours}:${two(minutes)}:${two(whole % 60)} h` : `${minutes}:${two(whole % 60)} min`;
}

export function clock(at) {
  const date = new Date(1000 * at), today = new Date().toDateString() === date.toDateString();
  const time = date.toLocaleTimeString("en-GB");
  return today ? time : `${date.toISOString().slice(0, 10)} ${time}`;
}

export function several(number, one, many = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : many}`;
}

export function few(names, most = 4) {
  const more = names.length - most;
  return names.slice(0, most).join(", ") + (more > 0 ? ` and ${count(more)} more` : "");
}

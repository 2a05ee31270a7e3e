// Texts of logs as nodes that cannot act: characters that steer a terminal or turn the writing direction are shown as
// small labels, everything else is text. Also the formats of numbers and times.

const C0 = (
  "NUL SOH STX ETX EOT ENQ ACK BEL BS TAB LF VT FF CR SO SI DLE DC1 DC2 DC3 DC4 NAK SYN ETB CAN EM SUB ESC FS GS RS US"
).split(" ");
const NAMED = new Map([
  [0x7f, "DEL"], [0xad, "SHY"], [0x61c, "ALM"], [0x180e, "MVS"], [0x200b, "ZWSP"], [0x200e, "LRM"], [0x200f, "RLM"],
  [0x2028, "LSEP"], [0x2029, "PSEP"], [0x202a, "LRE"], [0x202b, "RLE"], [0x202c, "PDF"], [0x202d, "LRO"],
  [0x202e, "RLO"], [0x2060, "WJ"], [0x2066, "LRI"], [0x2067, "RLI"], [0x2068, "FSI"], [0x2069, "PDI"], [0xfeff, "BOM"],
]);
// Joiners (200C, 200D) stay: Persian, Indic scripts and emoji need them.
const STEERING = new RegExp(
  "[\\u0000-\\u001f\\u007f-\\u009f\\u00ad\\u061c\\u180e\\u200b\\u200e\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff" +
    "\\ufff9-\\ufffb\\u{e0000}-\\u{e007f}]",
  "gu",
);
const PARTS = /^([^:]{1,24}: )?(.+?)( \(-?\d+\))?$/su;
export const LONGEST = 400;

function labelOf(character) {
  const code = character.codePointAt(0);
  return C0[code] ?? NAMED.get(code) ?? `U+${code.toString(16).toUpperCase().padStart(4, "0")}`;
}

/** The text with labels in brackets in place of steering characters, for titles and announcements. */
export function plain(text, longest = LONGEST) {
  const [kept, left] = cut(text, longest);
  return kept.replace(STEERING, (c) => `[${labelOf(c)}]`) + (left ? "…" : "");
}

function cut(text, longest) {
  if (text.length <= longest) return [text, 0];
  // Not between the halves of a pair.
  const end = /[\ud800-\udbff]/.test(text[longest - 1]) ? longest - 1 : longest;
  return [text.slice(0, end), text.length - end];
}

function append(node, text) {
  let from = 0;
  for (const found of text.matchAll(STEERING)) {
    if (found.index > from) node.append(text.slice(from, found.index));
    const label = document.createElement("span");
    label.className = "control";
    label.textContent = labelOf(found[0]);
    node.append(label);
    from = found.index + found[0].length;
  }
  if (from < text.length) node.append(text.slice(from));
}

const shown = new WeakMap();

/** Make `text` the content of `node`; nothing is touched where it is that already. Returns whether it was not. */
export function show(node, text) {
  if (shown.get(node) === text) return false;
  shown.set(node, text);
  const [kept, left] = cut(text, LONGEST);
  node.replaceChildren();
  append(node, kept);
  if (left) node.append(more(left));
  return true;
}

/** As `show`, with the kind before a colon and a number in brackets behind it set back. */
export function showCommand(node, text) {
  if (shown.get(node) === text) return false;
  shown.set(node, text);
  const [kept, left] = cut(text, LONGEST);
  const [, kind = "", name = kept, number = ""] = PARTS.exec(kept) ?? [];
  node.replaceChildren();
  for (const [part, quiet] of [[kind, true], [name, false], [left ? "" : number, true]]) {
    if (!part) continue;
    const span = document.createElement("span");
    span.className = quiet ? "quiet" : "name";
    append(span, part);
    node.append(span);
  }
  if (left) node.append(more(left));
  node.title = plain(text, 200);
  return true;
}

function more(left) {
  const span = document.createElement("span");
  span.className = "more";
  span.textContent = `… ${left.toLocaleString("en")} more characters`;
  return span;
}

/** As `textContent = text`, but silent where nothing changes. */
export function put(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

export function percent(share) {
  if (share === null) return "–";
  if (share > 0 && share < 0.001) return "< 0.1 %";
  return `${(share * 100).toFixed(share < 0.0995 ? 1 : 0)} %`;
}

export function milliseconds(value) {
  if (value === null) return "–";
  if (value >= 1000) return `${(value / 1000).toFixed(1)} s`;
  return `${value.toFixed(value < 9.95 ? 1 : 0)} ms`;
}

/** "now", "12 s", "4 min", "3 h", "2 d" since a time in milliseconds. */
export function age(since, now = Date.now()) {
  const seconds = Math.max(0, (now - since) / 1000);
  if (!(seconds >= 2)) return "now";
  if (seconds < 60) return `${Math.floor(seconds)} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  return seconds < 86400 ? `${Math.floor(seconds / 3600)} h` : `${Math.floor(seconds / 86400)} d`;
}

/** Time of the day at this place; "" for none. */
export function clock(moment) {
  const date = new Date(moment ?? NaN);
  return Number.isNaN(date.getTime()) ? "" : date.toLocaleTimeString("en-GB");
}

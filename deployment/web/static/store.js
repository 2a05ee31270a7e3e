// What the app has said, and which session a person looks at.

export const VERSION = 1;
/** Following the newest session leaves the one shown when it was silent for this long (milliseconds). */
export const QUIET = 5000;
/** Milliseconds that an answer may take before the suggestions shown are called old. */
export const ANSWER = 500;

export class Store {
  constructor() {
    this.sessions = new Map();
    this.endpoint = null;
    this.known = false;
    this.outdated = false;
    this.selected = null;
    this.follow = true;
    this.pinned = new Set();
    this.heard = new Map();
    this.staleSince = new Map();
  }

  /** Take one message of the app; what is not understood is left alone. */
  apply(message, now = performance.now()) {
    switch (message.type) {
      case "state":
        this.outdated = message.version !== VERSION;
        if (this.outdated) return;
        this.known = true;
        this.endpoint = message.endpoint;
        this.sessions = new Map(message.sessions.map((session) => [session.id, session]));
        for (const id of this.heard.keys()) if (!this.sessions.has(id)) this.heard.delete(id);
        break;
      case "session":
        this.sessions.set(message.session.id, message.session);
        this.heard.set(message.session.id, now);
        break;
      case "removed":
        this.sessions.delete(message.id);
        this.heard.delete(message.id);
        this.pinned.delete(message.id);
        break;
      case "endpoint":
        this.endpoint = message.endpoint;
        break;
    }
    this.noteStale(now);
    this.settle(now);
  }

  noteStale(now) {
    for (const id of this.staleSince.keys()) if (!this.sessions.get(id)?.stale) this.staleSince.delete(id);
    for (const { id, stale } of this.sessions.values()) {
      if (stale && !this.staleSince.has(id)) this.staleSince.set(id, now);
    }
  }

  /** Milliseconds until a session's suggestions count as old: 0 where they do, Infinity where they are new. */
  untilOld(id, now = performance.now()) {
    return this.staleSince.has(id) ? Math.max(0, this.staleSince.get(id) + ANSWER - now) : Infinity;
  }

  /** Sessions, pinned ones first, then by the newest command. */
  ordered() {
    const rank = (session) => (this.pinned.has(session.id) ? 1 : 0);
    return [...this.sessions.values()].sort(
      (a, b) => rank(b) - rank(a) || Date.parse(b.changed) - Date.parse(a.changed) || (a.id < b.id ? -1 : 1),
    );
  }

  newest() {
    let found = null;
    for (const session of this.sessions.values()) {
      if (!found || Date.parse(session.changed) > Date.parse(found.changed)) found = session;
    }
    return found;
  }

  /** Keep the selection valid; move it where the newest session is followed. Returns whether it moved. */
  settle(now = performance.now()) {
    const before = this.selected;
    if (!this.sessions.has(this.selected)) {
      this.follow = this.follow || this.selected !== null;
      this.selected = this.newest()?.id ?? null;
    } else if (this.follow && now - (this.heard.get(this.selected) ?? -Infinity) > QUIET) {
      this.selected = this.newest().id;
    }
    return this.selected !== before;
  }

  select(id) {
    this.selected = id;
    this.follow = false;
  }

  followNewest() {
    this.follow = true;
    this.selected = this.newest()?.id ?? null;
  }

  togglePin(id) {
    if (!this.pinned.delete(id)) this.pinned.add(id);
  }
}

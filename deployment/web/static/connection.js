// The WebSocket to the app: opens again by itself, each time after a longer pause.

const FIRST = 500;
const LONGEST = 10000;
/** Milliseconds in which a new socket has to bring the first state. */
const PATIENCE = 10000;

export class Connection {
  /**
   * @param {(message: object) => void} onMessage takes what the app says
   * @param {() => void} onChange is told when `state` or `retryAt` changed
   */
  constructor(onMessage, onChange) {
    this.onMessage = onMessage;
    this.onChange = onChange;
    this.state = "connecting"; // then live, waiting (until retryAt), trying
    this.attempt = 0;
    this.retryAt = 0;
    this.lostAt = null;
    addEventListener("online", () => this.tryNow());
    document.addEventListener("visibilitychange", () => document.hidden || this.tryNow());
    addEventListener("pageshow", (event) => event.persisted && this.tryNow());
    this.open();
  }

  open() {
    const url = new URL("/ws", location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = new WebSocket(url);
    this.socket = socket;
    this.timer = setTimeout(() => socket.close(), PATIENCE);
    socket.onmessage = (event) => this.take(event.data);
    socket.onclose = () => this.socket === socket && this.lost();
  }

  take(data) {
    let message;
    try {
      message = JSON.parse(data);
    } catch {
      console.warn("the app sent something that is not JSON");
      return;
    }
    // Only a whole state shows that the app is there: a proxy may accept a socket for an app that is gone.
    if (message.type === "state" && this.state !== "live") {
      this.attempt = 0;
      this.lostAt = null;
      clearTimeout(this.timer);
      this.set("live");
    }
    this.onMessage(message);
  }

  lost() {
    clearTimeout(this.timer);
    this.lostAt ??= Date.now();
    const pause = Math.min(LONGEST, FIRST * 2 ** this.attempt) * (0.8 + 0.4 * Math.random());
    this.attempt += 1;
    this.retryAt = Date.now() + pause;
    this.timer = setTimeout(() => this.tryAgain(), pause);
    this.set("waiting");
  }

  tryAgain() {
    clearTimeout(this.timer);
    this.open();
    this.set("trying");
  }

  /** Open at once where it waits for the next try. */
  tryNow() {
    if (this.state === "waiting") this.tryAgain();
  }

  set(state) {
    this.state = state;
    this.onChange();
  }
}

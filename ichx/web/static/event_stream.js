// Server-sent events, as long as the page is visible: a hidden page holds no connection, because browsers allow few to one server.

const RETRY = 2000; // after a refusal, e.g. while the store is away; browsers retry lost connections themselves

/**
 * Follow the events of the URL that `url()` returns, and return a function that ends this.
 * `events` has a function for each name of an event. `lost(refused)` is called without a connection.
 */
export function followEvents(url, events, lost) {
  let source = null, timer = null, ended = false;

  function connect() {
    clearTimeout(timer);
    source?.close();
    source = null;
    if (ended || document.visibilityState !== "visible") return;
    const mine = source = new EventSource(url());
    for (const [name, run] of Object.entries(events)) mine.addEventListener(name, run);
    mine.addEventListener("error", () => {
      if (mine !== source) return;
      const refused = mine.readyState === EventSource.CLOSED;
      lost(refused);
      if (refused) timer = setTimeout(connect, RETRY);
    });
  }

  document.addEventListener("visibilitychange", connect);
  connect();
  return () => { ended = true; connect(); };
}

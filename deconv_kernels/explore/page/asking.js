/** Questions to the server. */

/** An answer of the server as JSON; an Error with the server's own words where it refuses. */
export async function ask(name, given = {}, how = {}) {
  const response = await fetch(`api/${name}?${new URLSearchParams(given)}`, how);
  const answer = await response.json().catch(() => ({ error: `the server answered ${response.status}` }));
  if (!response.ok) throw new Error(answer.error);
  return answer;
}

export const address = (name, given) => `api/${name}?${new URLSearchParams(given)}`;

/**
 * One question at a time: while an answer is awaited, only the last wish is remembered.
 *
 * `show(answer, given)` is called with every answer that is still wished for when it comes.
 */
export class Latest {
  constructor(name, show, fail) {
    Object.assign(this, { name, show, fail, wish: null, busy: false, shown: null });
  }

  /** Wishes for an answer; null wishes for none. What is shown already is not asked for again. */
  async want(given) {
    this.wish = given;
    if (this.busy) return;
    this.busy = true;
    while (this.wish && key(this.wish) !== this.shown) {
      const asked = this.wish;
      let told;
      try {
        const answer = await ask(this.name, asked);
        told = () => this.show(answer, asked);
      } catch (error) {
        told = () => this.fail(error);
      }
      if (this.wish === null) break;
      // While the pointer moves, what it has passed is shown too: the picture follows.
      this.shown = key(asked);
      told();
    }
    this.busy = false;
  }

  /** Has the next wish asked for even if it is shown. */
  forget() {
    this.shown = null;
  }
}

const key = (given) => JSON.stringify(given);

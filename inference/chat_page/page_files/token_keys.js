// A row of tokens by the keyboard: one of them can be reached with Tab, the others with the arrows.

const STEPS = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity, Enter: 0, " ": 0 };

/** Return the number that a key chooses in a row of `count` tokens; null if it chooses none. */
export function keyboardChoice(event, number, count) {
  const step = STEPS[event.key];
  if (step === undefined) return null;
  event.preventDefault();
  return Math.min(Math.max(number + step, 0), count - 1);
}

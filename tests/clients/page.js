// The live page in a browser. What stands at URL must show, of a pool whose backends `report-fn` holds in transactions:
// the sentence that names it, the tables, nothing that a client's name smuggles in. Says ok.
"use strict";

const { readFileSync } = require("node:fs");
const PATIENCE = 30_000;

function check(condition, what) {
  if (!condition) throw new Error(what);
}

require("./browser.js")(async (page, url) => {
  const complaints = [];
  page.on("console", (message) => {
    if (["error", "warning"].includes(message.type())) complaints.push(message.text());
  });
  page.on("pageerror", (error) => complaints.push(error.message));
  page.on("request", (request) => {
    const at = request.url();
    if (!at.startsWith(url) && !at.startsWith("data:")) complaints.push(`asks elsewhere: ${at}`);
  });
  await page.goto(url, { timeout: PATIENCE });

  // It names who holds the backends, and what to look at.
  const names = () => {
    const text = document.getElementById("sentence").textContent;
    return text.includes("is saturated") && text.includes("`report-fn`") && text.includes("idle_transaction_timeout");
  };
  await page.waitForFunction(names, undefined, { timeout: PATIENCE });
  const severity = await page.$eval("#sentence", (sentence) => sentence.dataset.severity);
  check(severity === "trouble", `severity ${severity}`);
  const rows = (id) => page.$eval(`#${id}`, (table) => table.tBodies[0].textContent);
  check((await rows("callers")).includes("report-fn"), "callers");
  check((await rows("transactions")).includes("idle in transaction"), "transactions");
  check((await rows("waiting")).includes("api-fn"), "waiting");
  check((await rows("pins")).includes("temporary"), `pins: ${await rows("pins")}`);
  check((await rows("errors")).includes("53300"), `errors: ${await rows("errors")}`);
  const isDrawn = () => document.querySelector("#pools svg .demand").getAttribute("points").split(" ").length > 1;
  await page.waitForFunction(isDrawn, undefined, { timeout: PATIENCE });

  // A client's name is text.
  check((await rows("callers")).includes("<img"), `the name of the hostile client: ${await rows("callers")}`);
  check((await page.$("main img")) === null && !(await page.evaluate(() => window.hacked)), "a name became markup");

  // It goes on by itself.
  const before = await page.$eval("#transactions", (table) => table.tBodies[0].textContent);
  await page.waitForFunction(
    (before) => document.getElementById("transactions").tBodies[0].textContent !== before, before, { timeout: PATIENCE });

  // A keyboard reaches the tables; a phone shows it without scrolling sideways.
  await page.keyboard.press("Tab");
  check(await page.evaluate(() => document.activeElement.matches(".scroll")), "Tab reaches the first table");
  await page.setViewportSize({ width: 360, height: 740 });
  const wide = await page.evaluate(() => document.documentElement.scrollWidth);
  check(wide <= 360, `on a phone it is ${wide} wide`);

  // Accessible, light and dark (axe-core's rules; contrast among them).
  const axe = readFileSync(require.resolve("axe-core/axe.min.js"), "utf8");
  for (const scheme of ["light", "dark"]) {
    await page.emulateMedia({ colorScheme: scheme });
    await page.evaluate(axe);
    const { violations } = await page.evaluate(() => axe.run());
    const told = violations.map((one) => `${one.id}: ${one.nodes.map((node) => node.html).join(" ")}`);
    check(told.length === 0, `${scheme}: ${told.join("\n")}`);
  }
  check(complaints.length === 0, complaints.join("\n"));
});

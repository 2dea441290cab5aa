// The live page where too many watch already: says lost, and ok once there was room again and it has come back by itself.
"use strict";

const PATIENCE = 30_000;

require("./browser.js")(async (page, url) => {
  await page.goto(url, { timeout: PATIENCE });
  const says = (text) => document.getElementById("connection").textContent.includes(text);
  await page.waitForFunction(says, "connection lost", { timeout: PATIENCE });
  console.log("lost");
  await page.waitForFunction(says, "live", { timeout: PATIENCE });
});

// Chromium, as the programs beside this use it.
"use strict";

const { chromium } = require("playwright-core");

// Shows `url` to `look`, and says ok; or what went wrong.
async function show(url, look) {
  const browser = await chromium.launch({
    executablePath: process.env.PGFUNNEL_TEST_CHROMIUM || "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"],
  });
  try {
    await look(await browser.newPage(), url);
    console.log("ok");
  } finally {
    await browser.close();
  }
}

module.exports = (look) =>
  show(process.argv[2], look).catch((error) => {
    console.error(error);
    process.exit(1);
  });

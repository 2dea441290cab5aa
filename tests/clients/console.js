// The admin console by node-postgres and postgres.js.
const assert = require("node:assert");
const pg = require("pg");
const postgres = require("postgres");

const url = process.argv[2];

async function byPg() {
  const client = new pg.Client(url);
  await client.connect();
  const { rows } = await client.query("SHOW LISTS");
  assert.deepEqual(rows[0], { list: "databases", items: "1" });
  const named = await client.query({ name: "lists", text: "SHOW LISTS", values: [] });
  assert.equal(named.rows.length, rows.length);
  assert.equal((await client.query("PAUSE")).command, "PAUSE");
  assert.equal((await client.query("RESUME")).command, "RESUME");
  await assert.rejects(client.query("FOO"), { code: "42601" });
  await client.end();
}

async function byPostgresJs() {
  const sql = postgres(url, { max: 1, fetch_types: false });
  const rows = await sql`SHOW LISTS`;
  assert.deepEqual({ ...rows[0] }, { list: "databases", items: "1" });
  await assert.rejects(sql`FOO`, { code: "42601" });
  await sql.end();
}

byPg()
  .then(byPostgresJs)
  .catch((error) => {
    console.error(error);
    process.exit(1);
  });

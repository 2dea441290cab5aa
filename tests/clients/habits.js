// What postgres.js and node-postgres say besides their users' queries: named statements, pools, settings at connect.
// Usage: habits.js URL CLIENTS. Prints "ok" when every client has seen what PostgreSQL promises.
const postgres = require("postgres");
const pg = require("pg");

const [url, clients] = [process.argv[2], Number(process.argv[3])];
const rounds = 12;

function same(got, expected, what) {
  if (got !== expected) throw new Error(`${what}: ${got} instead of ${expected}`);
}

async function postgresJs(number) {
  const sql = postgres(url, { max: 1, connection: { application_name: `js-${number}`, TimeZone: "Asia/Tokyo" } });
  for (let round = 0; round < rounds; round++) {
    const [row] = await sql`select ${number}::int as n, current_setting('application_name') as name`;
    same(row.n, number, "n");
    same(row.name, `js-${number}`, "name");
    await sql.begin(async (tx) => {
      const [zone] = await tx`select current_setting('timezone') as zone`;
      same(zone.zone, "Asia/Tokyo", "zone");
    });
  }
  await sql.end();
}

async function nodePostgres(number) {
  const pool = new pg.Pool({ connectionString: url, max: 1 });
  pool.on("connect", (client) => client.query(`set search_path = pg_catalog; set statement_timeout = ${50001 + number * 10}`));
  for (let round = 0; round < rounds; round++) {
    const { rows } = await pool.query({ name: "timeout", text: "select current_setting('statement_timeout') as t" });
    same(rows[0].t, `${50001 + number * 10}ms`, "statement_timeout");
  }
  await pool.end();
}

// postgres.js listens on a connection of its own; node-postgres on any client.
async function listeners(number) {
  const sql = postgres(url, { max: 1 });
  const client = new pg.Client({ connectionString: url });
  await client.connect();
  const heard = { postgres: [], pg: [] };
  await sql.listen(`habit_${number}`, (payload) => heard.postgres.push(payload));
  client.on("notification", (message) => heard.pg.push(message.payload));
  await client.query(`LISTEN habit_${number}`);
  for (let round = 0; round < rounds; round++) await sql.notify(`habit_${number}`, `${round}`);
  for (let wait = 0; wait < 2000 && (heard.postgres.length < rounds || heard.pg.length < rounds); wait++)
    await new Promise((resolve) => setTimeout(resolve, 10));
  const expected = Array.from({ length: rounds }, (_, round) => `${round}`).join();
  same(heard.postgres.join(), expected, "postgres.js");
  same(heard.pg.join(), expected, "pg");
  await sql.end();
  await client.end();
}

const habits = [postgresJs, nodePostgres, listeners];
const all = Array.from({ length: clients }, (_, number) => habits[number % habits.length](number));
Promise.all(all).then(
  () => console.log("ok"),
  (error) => {
    console.error(error);
    process.exit(1);
  },
);

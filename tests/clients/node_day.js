// A day's work with node-postgres: transactions, named statements, COPY, cursors, cancel, errors, its pool.
// Usage: node_day.js URL CLIENTS, with NODE_PATH naming the modules pg, pg-cursor and pg-copy-streams.
// Prints "ok" when every client has seen what PostgreSQL promises.
'use strict';

const assert = require('node:assert');
const { once } = require('node:events');
const { pipeline } = require('node:stream/promises');
const { Readable } = require('node:stream');
const { Client, Pool } = require('pg');
const Cursor = require('pg-cursor');
const copy = require('pg-copy-streams');

const [url, clients] = [process.argv[2], Number(process.argv[3])];
const table = 'node_day';

async function refused(code, promise) {
  await assert.rejects(promise, (error) => (assert.equal(error.code, code, error.message), true));
}

async function transactions(client, id) {
  await client.query('begin');
  await client.query(`insert into ${table} values ($1, 1, 'kept')`, [id]);
  await client.query('savepoint s');
  await refused('22012', client.query('select 1 / 0'));
  await client.query('rollback to s');
  await client.query('commit');
  await client.query('begin');
  await client.query(`insert into ${table} values ($1, 2, 'lost')`, [id]);
  await client.query('rollback');
  const { rows } = await client.query(`select n from ${table} where client = $1`, [id]);
  assert.deepEqual(rows, [{ n: 1 }]);
}

async function prepared(client, id) {
  for (let number = 0; number < 40; number++) {
    const shared = { name: 'shared', text: 'select $1::int + $2::int as sum', values: [id, number] };
    assert.equal((await client.query(shared)).rows[0].sum, id + number);
    // The same name means something else for every client.
    const own = { name: 'own', text: `select ${id} * 1000 + $1::int as own`, values: [number] };
    assert.equal((await client.query(own)).rows[0].own, id * 1000 + number);
  }
  const all = await Promise.all([...Array(50).keys()].map((n) => client.query('select $1::int as n', [n])));
  assert.deepEqual(all.map((result) => result.rows[0].n), [...Array(50).keys()]);
  const several = await client.query('select 1 as a; select 2 as b');
  assert.deepEqual(several.map((result) => result.rows[0]), [{ a: 1 }, { b: 2 }]);
}

async function copies(client, id) {
  const lines = [...Array(200).keys()].map((n) => `${id}\t${n + 10}\tcopied\n`);
  await pipeline(Readable.from(lines), client.query(copy.from(`copy ${table} from stdin`)));
  await refused('23505', pipeline(Readable.from([lines[0]]), client.query(copy.from(`copy ${table} from stdin`))));
  let out = '';
  const stream = client.query(copy.to(`copy (select n from ${table} where client = ${id} and n >= 10 order by n) to stdout`));
  for await (const chunk of stream) out += chunk;
  assert.deepEqual(out.trim().split('\n').map(Number), [...Array(200).keys()].map((n) => n + 10));
}

async function mistakes(client, id) {
  await refused('42601', client.query('selec 1'));
  await refused('42P01', client.query('select * from nowhere where a = $1', [1]));
  await refused('23505', client.query(`insert into ${table} values ($1, 1, 'twice')`, [id]));
  await refused('22P02', client.query('select $1::int', ['no number']));
  assert.equal((await client.query('select 1 as one')).rows[0].one, 1);
}

async function cursors(client) {
  await client.query('begin');
  const cursor = client.query(new Cursor('select generate_series(1, 1000) as n'));
  let total = 0;
  for (let rows = await cursor.read(77); rows.length; rows = await cursor.read(77)) {
    total += rows.reduce((sum, row) => sum + row.n, 0);
  }
  assert.equal(total, 500500);
  await cursor.close();
  await client.query('commit');
}

async function cancels(client) {
  const running = refused('57014', client.query('select pg_sleep(30)'));
  await new Promise((resolve) => setTimeout(resolve, 300));
  const canceller = new Client(url);
  canceller.on('error', () => {}); // the server closes it without an answer
  canceller.cancel(client, client._activeQuery ?? client.activeQuery);
  await running;
  assert.equal((await client.query('select 1 as one')).rows[0].one, 1);
}

async function day(id) {
  const client = new Client({ connectionString: url, application_name: `node-${id}` });
  await client.connect();
  assert.equal((await client.query('show application_name')).rows[0].application_name, `node-${id}`);
  for (const work of [transactions, prepared, copies, mistakes, cursors]) await work(client, id);
  if (id % 8 === 0) await cancels(client);
  await client.end();
}

async function poolOfItsOwn() {
  const pool = new Pool({ connectionString: url, max: 8 });
  const all = await Promise.all([...Array(100).keys()].map((n) => pool.query('select $1::int * 2 as n', [n])));
  assert.deepEqual(all.map((result) => result.rows[0].n), [...Array(100).keys()].map((n) => n * 2));
  await pool.end();
}

async function listens() {
  const [listener, other] = [new Client(url), new Client(url)];
  await Promise.all([listener.connect(), other.connect()]);
  await listener.query('listen node_news');
  const heard = once(listener, 'notification');
  await other.query("notify node_news, 'hello'");
  assert.equal((await heard)[0].payload, 'hello');
  await Promise.all([listener.end(), other.end()]);
}

async function main() {
  const client = new Client(url);
  await client.connect();
  await client.query(`create table ${table} (client int, n int, t text, primary key (client, n))`);
  await Promise.all([...Array(clients).keys()].map(day));
  await poolOfItsOwn();
  await listens();
  const { rows } = await client.query(`select count(*)::int as count from ${table}`);
  await client.query(`drop table ${table}`);
  await client.end();
  assert.equal(rows[0].count, clients * (1 + 200));
  console.log('ok');
}

setTimeout(() => { console.error('took too long'); process.exit(1); }, 100000).unref();
main().catch((error) => { console.error(error); process.exit(1); });

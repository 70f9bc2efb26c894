"""A small shop API to be tuned: FastAPI, SQLAlchemy 2 (async, asyncpg) and Redis.

Every limit is an environment variable, and so is everything that makes a request expensive or makes it fail:
`Settings` lists them. Each worker process has its own pools; /pool and /metrics speak for the process that answers.
"""

import asyncio
import os
import socket
import time
from collections import Counter, deque
from contextlib import asynccontextmanager

import asyncpg
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException
from fastapi.responses import JSONResponse, PlainTextResponse
from pydantic import BaseModel
from redis.asyncio import BlockingConnectionPool, Redis
from redis.exceptions import RedisError
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker, create_async_engine


def env(name, default):
    """The variable in the type of its default; unset or empty is the default."""
    value = os.environ.get(name, "")
    if value == "":
        return default
    if isinstance(default, bool):
        return value.lower() in ("1", "true", "yes", "on")
    try:
        return type(default)(value)
    except ValueError:
        raise SystemExit(f"{name}={value!r}: {type(default).__name__} expected") from None


class Settings:
    # The database and its pool; the limits are per process
    database_url = env("DATABASE_URL", "postgresql+asyncpg://shop:shop@127.0.0.1:15432/shop")
    pool_size = env("POOL_SIZE", 5)
    max_overflow = env("MAX_OVERFLOW", 10)
    pool_timeout = env("POOL_TIMEOUT", 30.0)  # seconds a request waits for a connection
    pool_recycle = env("POOL_RECYCLE", 1800)  # seconds after which a connection is replaced
    pool_pre_ping = env("POOL_PRE_PING", False)
    pool_error_status = env("POOL_ERROR_STATUS", 503)
    lock_timeout_ms = env("LOCK_TIMEOUT_MS", 0)  # how long a statement waits for each holder of a row lock; 0: for ever
    # Redis and its pool
    redis_url = env("REDIS_URL", "redis://127.0.0.1:16379/0")
    redis_max_connections = env("REDIS_MAX_CONNECTIONS", 20)
    redis_timeout = env("REDIS_TIMEOUT", 1.0)  # seconds a request waits for a connection
    redis_keepalive = env("REDIS_KEEPALIVE", False)  # TCP keepalive on its sockets
    cache_ttl = env("CACHE_TTL", 0)  # seconds that GET /items/{id} is cached; 0: not at all
    # What a request costs
    hold_ms = env("HOLD_MS", 20.0)  # how long it keeps its database connection, besides its own query
    hold_in = env("HOLD_IN", "database")  # "database": a slow query; "app": idle in transaction, as while calling others
    db_rows = env("DB_ROWS", 0)  # rows that the database computes for it: CPU there
    redis_hold_ms = env("REDIS_HOLD_MS", 0.0)  # how long GET /visits keeps its Redis connection
    cpu_ms = env("CPU_MS", 0.0)  # CPU on the event loop: serialisation, business rules
    buffer_kb = env("BUFFER_KB", 0)  # memory while it runs
    leak_kb = env("LEAK_KB", 0)  # memory for ever
    # What turns it away
    auth_token = env("AUTH_TOKEN", "")  # when set, requests need `Authorization: Bearer TOKEN`
    rate_limit_rps = env("RATE_LIMIT_RPS", 0.0)  # token bucket of the whole instance; 0: none
    rate_limit_burst = env("RATE_LIMIT_BURST", 0.0)  # its size; 0: a second's worth
    rate_limit_status = env("RATE_LIMIT_STATUS", 429)
    # The process; LOOP, BACKLOG, KEEP_ALIVE, GRACE and PORT are read by the entrypoint
    workers = env("WORKERS", 1)
    start_delay = env("START_DELAY", 0.0)  # seconds until it is ready


INSTANCE = socket.gethostname()
SCHEMA = (
    "CREATE TABLE IF NOT EXISTS items(id serial PRIMARY KEY, name text NOT NULL, price numeric NOT NULL, stock int NOT NULL)",
    "CREATE TABLE IF NOT EXISTS orders(id bigserial PRIMARY KEY, item_id int NOT NULL, quantity int NOT NULL,"
    " at timestamptz NOT NULL DEFAULT now())",
    "INSERT INTO items(name, price, stock) SELECT 'item ' || g, g % 97 + 0.99, 1000000 FROM generate_series(1, 1000) g"
    " WHERE NOT EXISTS (SELECT FROM items)",
)

engine = create_async_engine(
    Settings.database_url,
    pool_size=Settings.pool_size,
    max_overflow=Settings.max_overflow,
    pool_timeout=Settings.pool_timeout,
    pool_recycle=Settings.pool_recycle,
    pool_pre_ping=Settings.pool_pre_ping,
    connect_args={"server_settings": {"application_name": "shop-api", "lock_timeout": str(Settings.lock_timeout_ms)}},
)
new_session = async_sessionmaker(engine, class_=AsyncSession, expire_on_commit=False)
redis = Redis(
    connection_pool=BlockingConnectionPool.from_url(
        Settings.redis_url,
        max_connections=Settings.redis_max_connections,
        timeout=Settings.redis_timeout,
        socket_keepalive=Settings.redis_keepalive,
    )
)

counts = Counter()  # errors by kind
responses = Counter()  # by status
gauges = Counter()  # requests in flight, waiting for a connection, in Redis
leaked = deque()


class Bucket:
    """A token bucket. Workers don't see each other: each has its share."""

    def __init__(self, rate, size):
        self.rate, self.size, self.tokens, self.at = rate, size, size, time.monotonic()

    def take(self):
        now = time.monotonic()
        self.tokens = min(self.size, self.tokens + (now - self.at) * self.rate)
        self.at = now
        if self.tokens < 1:
            return False
        self.tokens -= 1
        return True


bucket = None
if Settings.rate_limit_rps > 0:
    bucket = Bucket(
        Settings.rate_limit_rps / Settings.workers,
        max(1.0, (Settings.rate_limit_burst or Settings.rate_limit_rps) / Settings.workers),
    )


@asynccontextmanager
async def lifespan(_):
    await asyncio.sleep(Settings.start_delay)
    async with engine.begin() as connection:
        # Workers and instances start together: one makes the schema, the others find it.
        await connection.execute(text("SELECT pg_advisory_xact_lock(42)"))
        for statement in SCHEMA:
            await connection.execute(text(statement))
    yield
    await engine.dispose()
    await redis.aclose()


class Observe:
    """Counts requests and names the instance that answered. Plain ASGI: it costs next to nothing."""

    def __init__(self, app):
        self.app = app

    async def __call__(self, scope, receive, send):
        if scope["type"] != "http":
            return await self.app(scope, receive, send)

        async def tagged(message):
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-instance", INSTANCE.encode()))
                responses[message["status"]] += 1
            await send(message)

        with gauge("in_flight"):
            await self.app(scope, receive, tagged)


class gauge:
    def __init__(self, name):
        self.name = name

    def __enter__(self):
        gauges[self.name] += 1

    def __exit__(self, *_):
        gauges[self.name] -= 1


app = FastAPI(title="shop", lifespan=lifespan)
app.add_middleware(Observe)


def answer_with(status, kind):
    async def handler(_, error):
        counts[kind] += 1
        return JSONResponse({"error": kind, "detail": f"{type(error).__name__}: {error}"[:200]}, status)

    return handler


app.add_exception_handler(PoolTimeout, answer_with(Settings.pool_error_status, "pool_timeout"))
app.add_exception_handler(RedisError, answer_with(500, "redis_error"))
# asyncpg's errors arrive bare when it is the connecting that fails: refused, too many clients, unknown name
for error in (DBAPIError, asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
    app.add_exception_handler(error, answer_with(500, "db_error"))


# ---- the shop


async def admit(authorization: str = Header("")):
    if bucket and not bucket.take():
        counts["limited"] += 1
        raise HTTPException(Settings.rate_limit_status, "rate limit", {"Retry-After": "1"})
    if Settings.auth_token and authorization != f"Bearer {Settings.auth_token}":
        counts["unauthorized"] += 1
        raise HTTPException(401, "token missing or wrong", {"WWW-Authenticate": "Bearer"})


shop = APIRouter(dependencies=[Depends(admit)])


@asynccontextmanager
async def session():
    """A session that has its connection already, so that the wait for it can be seen."""
    async with new_session() as s:
        with gauge("waiting"):
            await s.connection()
        yield s


async def work(s, hold_ms=None):
    """What makes the request expensive while it has a connection."""
    buffer = memory(Settings.buffer_kb << 10)
    if Settings.leak_kb:
        leaked.append(memory(Settings.leak_kb << 10))
    if Settings.db_rows:
        await s.execute(text("SELECT sum(sqrt(g)) FROM generate_series(1, :n) g"), {"n": Settings.db_rows})
    seconds = (Settings.hold_ms if hold_ms is None else hold_ms) / 1000
    if seconds > 0 and Settings.hold_in == "app":
        await asyncio.sleep(seconds)
    elif seconds > 0:
        await s.execute(text("SELECT pg_sleep(:t)"), {"t": seconds})
    del buffer


def memory(size):
    return b"x" * size  # written, so the pages are really there


def compute():
    """The request's own CPU; it blocks the event loop, as such work does."""
    end = time.thread_time() + Settings.cpu_ms / 1000
    while time.thread_time() < end:
        pass


@shop.get("/items")
async def list_items(limit: int = 10, hold_ms: float | None = None):
    async with session() as s:
        query = text("SELECT id, name, price, stock FROM items ORDER BY id LIMIT :n")
        rows = (await s.execute(query, {"n": limit})).all()
        await work(s, hold_ms)
    compute()
    return [{"id": r.id, "name": r.name, "price": float(r.price), "stock": r.stock} for r in rows]


@shop.get("/items/{item_id}")
async def get_item(item_id: int, hold_ms: float | None = None):
    if Settings.cache_ttl:
        with gauge("redis"):
            name = await redis.get(f"item:{item_id}")
        if name:
            return {"id": item_id, "name": name.decode(), "cached": True}
    async with session() as s:
        row = (await s.execute(text("SELECT id, name FROM items WHERE id = :i"), {"i": item_id})).first()
        await work(s, hold_ms)
    if row is None:
        raise HTTPException(404, "no such item")
    compute()
    if Settings.cache_ttl:
        with gauge("redis"):
            await redis.set(f"item:{item_id}", row.name, ex=Settings.cache_ttl)
    return {"id": row.id, "name": row.name, "cached": False}


class Order(BaseModel):
    item_id: int = 1
    quantity: int = 1


@shop.post("/orders", status_code=201)
async def order(o: Order, hold_ms: float | None = None):
    async with session() as s:
        query = text("INSERT INTO orders(item_id, quantity) VALUES (:i, :q) RETURNING id")
        number = (await s.execute(query, {"i": o.item_id, "q": o.quantity})).scalar_one()
        await work(s, hold_ms)
        await s.commit()
    compute()
    return {"id": number}


@shop.post("/reserve")
async def reserve(o: Order, hold_ms: float | None = None):
    """Locks the item's row for as long as it works: requests for the same item queue up in the database."""
    async with session() as s:
        await s.execute(text("UPDATE items SET stock = stock - :q WHERE id = :i"), {"i": o.item_id, "q": o.quantity})
        await work(s, hold_ms)
        await s.commit()
    return {"item_id": o.item_id, "reserved": o.quantity}


@shop.get("/visits")
async def visits():
    """Redis only."""
    with gauge("redis"):
        async with redis.client() as connection:  # one connection, kept until the block ends
            number = await connection.incr("visits")
            await asyncio.sleep(Settings.redis_hold_ms / 1000)
    return {"visits": number}


@shop.post("/leak")
async def leak(mb: int = 1):
    leaked.append(memory(mb << 20))
    return {"leaked_mb": sum(map(len, leaked)) >> 20}


app.include_router(shop)


# ---- for those who run it; neither limited nor behind the token


@app.get("/health")
async def health():
    """Alive: the event loop turns. No database."""
    return {"ok": True, "instance": INSTANCE}


@app.get("/ready")
async def ready():
    """The database answers. A full pool is busy, not broken: it is not asked, nor is an extra connection opened."""
    if engine.pool.checkedout() >= capacity() > 0:
        return {"ok": True, "pool": "busy"}
    try:
        async with asyncio.timeout(1.5), engine.connect() as connection:
            await connection.execute(text("SELECT 1"))
    except Exception as error:
        return JSONResponse({"ok": False, "error": f"{type(error).__name__}: {error}"[:200]}, 503)
    return {"ok": True}


def capacity():
    """Connections that the pool may have; SQLAlchemy takes pool_size 0 and max_overflow -1 as no limit: 0 here."""
    unlimited = Settings.pool_size == 0 or Settings.max_overflow < 0
    return 0 if unlimited else Settings.pool_size + Settings.max_overflow


@app.get("/pool")
async def pool():
    p = engine.pool
    return {
        "instance": INSTANCE,
        "pid": os.getpid(),
        "size": p.size(),
        "max_overflow": Settings.max_overflow,
        "capacity": capacity(),
        "checked_out": p.checkedout(),
        "idle": p.checkedin(),
        "overflow": max(0, p.overflow()),
        "waiting": gauges["waiting"],
        "timeouts": counts["pool_timeout"],
        "in_flight": gauges["in_flight"],
        "redis": {
            "max_connections": Settings.redis_max_connections,
            "in_use_or_waiting": gauges["redis"],
            "errors": counts["redis_error"],
        },
    }


@app.get("/metrics")
async def metrics():
    """The same for Prometheus."""
    state = await pool()
    lines = []
    for name in ("capacity", "checked_out", "idle", "overflow", "waiting"):
        lines += [f"# TYPE shop_pool_{name} gauge", f"shop_pool_{name} {state[name]}"]
    lines += ["# TYPE shop_requests_in_flight gauge", f"shop_requests_in_flight {state['in_flight']}"]
    lines += ["# TYPE shop_responses_total counter"]
    lines += [f'shop_responses_total{{status="{status}"}} {n}' for status, n in sorted(responses.items())]
    lines += ["# TYPE shop_errors_total counter"]
    lines += [f'shop_errors_total{{kind="{kind}"}} {n}' for kind, n in sorted(counts.items())]
    return PlainTextResponse("\n".join(lines) + "\n")

-- Write one answer: the feed, its explanation, and one ledger entry for each request that it answers.
--
-- The time of a call depends on its arguments alone, never on the number of answers that a viewer has: Redis serves
-- no other client meanwhile. So the ledger is two hashes. The second one takes over the entries of the first when that is
-- full, and loses its own.
--
-- KEYS: feed document, explanation, ledger (hash: request id -> record), full ledger, replaced feeds (list), ready channel
-- ARGV: 1 arrival of the request (ms), 2 feed document, or '' if an earlier call has written the answer,
--       3 TTL of feed and explanation (s), 4 explanation or '', 5 '1' if the document states that there is no feed
--       (`expired`, `failed`), 6 TTL of the ledger (s), 7 entries of a full ledger, 8 TTL of replaced feeds (s),
--       9 number of replaced feeds, 10 id of the computed request, 11 that id as MessagePack,
--       12 ... three for each request that is answered: its id, its id as MessagePack, its record as MessagePack.
-- Returns the record that counts for each request: the first that was ever written.
--
-- Documents are compared without a parser: `arrived_at` is the last field of a feed, its items are empty or not, and a
-- status cannot occur in a text, whose quotes are escaped.
-- A record is a MessagePack array with the request id as its first field, so it becomes the record of another request
-- by replacing these bytes.

local feed, explain, answered, before, replaced, channel = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local arrived, document, ttl, explained, is_no_feed = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], ARGV[5] == '1'
local ledger_ttl, full, replaced_ttl, replaced_max = ARGV[6], tonumber(ARGV[7]), ARGV[8], tonumber(ARGV[9])
local computed, computed_packed = ARGV[10], ARGV[11]

local function answer_to(request)
  return redis.call('HGET', answered, request) or redis.call('HGET', before, request)
end

-- keep a feed that readers of its request may still want, though it is not the newest
local function keep(old)
  redis.call('LPUSH', replaced, old)
  redis.call('LTRIM', replaced, 0, replaced_max - 1)
  redis.call('EXPIRE', replaced, replaced_ttl)
end

local function is_feed(text)
  return not (string.find(text, '"status":"failed"', 1, true) or string.find(text, '"status":"expired"', 1, true))
end

local first = answer_to(computed)
if not first and document ~= '' then
  local known = redis.call('GET', feed)
  local is_newest = true
  if known then
    local known_arrived = tonumber(string.match(string.sub(known, -40), '"arrived_at":(%d+)}$')
      or string.match(known, '^{"at":(%d+)'))
    if is_no_feed then
      is_newest = not string.find(known, '"items":[{', 1, true) and not (known_arrived and known_arrived > arrived)
    else
      is_newest = not is_feed(known) or not (known_arrived and known_arrived > arrived)
    end
  end
  if is_newest then
    if known and is_feed(known) then keep(known) end
    redis.call('SET', feed, document, 'EX', ttl)
    if explained ~= '' then redis.call('SET', explain, explained, 'EX', ttl) end
  elseif not is_no_feed then
    keep(document)
  end
end

if redis.call('HLEN', answered) >= full then
  redis.call('UNLINK', before)
  redis.call('RENAME', answered, before)
  redis.call('EXPIRE', before, ledger_ttl)
end
local records = {}
for i = 12, #ARGV, 3 do
  local record = answer_to(ARGV[i])
  if not record then
    record = ARGV[i + 2]
    if first then
      local header = string.byte(first) == 0xdc and 3 or 1
      record = string.sub(first, 1, header) .. ARGV[i + 1] .. string.sub(first, header + #computed_packed + 1)
    end
    redis.call('HSET', answered, ARGV[i], record)
  end
  records[#records + 1] = record
  redis.call('PUBLISH', channel, ARGV[i])
end
redis.call('EXPIRE', answered, ledger_ttl)
return records

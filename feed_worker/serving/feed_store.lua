-- Write one answer: the feed, its explanation, and one ledger entry for each request that it answers.
--
-- The time of a call depends on its arguments alone, never on the number of answers that a viewer has: Redis serves
-- no other client meanwhile. So the ledger is two hashes. The second one takes over the entries of the first when that is
-- full, and loses its own.
--
-- KEYS: feed document, explanation, ledger (hash: request id -> record), full ledger, replaced feeds (list), ready channel
-- ARGV: 1 arrival of the request (ms), 2 its offset, 3 feed document, or '' if an earlier call has written the answer,
--       4 TTL of feed and explanation (s), 5 explanation or '', 6 '1' if the document withdraws an older feed,
--       7 TTL of the ledger (s), 8 entries of a full ledger, 9 TTL of replaced feeds (s), 10 number of replaced feeds,
--       11 id of the computed request, 12 that id as MessagePack,
--       13 ... three for each request that is answered: its id, its id as MessagePack, its record as MessagePack.
-- Returns the record that counts for each request: the first that was ever written.
--
-- A document without items takes away no feed with items, unless nothing at all may be shown: then it withdraws that feed.
-- Documents are compared without a parser: `arrived_at` and `offset` are the last fields of a feed, its items are empty
-- or not, and neither items nor a status can occur in a text, whose quotes are escaped.
-- A record is a MessagePack array with the request id as its first field, so it becomes the record of another request
-- by replacing these bytes.

local feed, explain, answered, before, replaced, channel = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local arrived, offset, document, ttl, explained = tonumber(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5]
local withdraws, ledger_ttl, full, replaced_ttl = ARGV[6] == '1', ARGV[7], tonumber(ARGV[8]), ARGV[9]
local replaced_max, computed, computed_packed = tonumber(ARGV[10]), ARGV[11], ARGV[12]

local function answer_to(request)
  return redis.call('HGET', answered, request) or redis.call('HGET', before, request)
end

-- keep a feed that readers of its request may still want, though it is not the newest
local function keep(old)
  redis.call('LPUSH', replaced, old)
  redis.call('LTRIM', replaced, 0, replaced_max - 1)
  redis.call('EXPIRE', replaced, replaced_ttl)
end

-- false for a statement that there is no feed
local function is_feed(text)
  return not (string.find(text, '"status":"failed"', 1, true) or string.find(text, '"status":"expired"', 1, true))
end

local function has_items(text)
  return string.find(text, '"items":[{', 1, true) ~= nil
end

-- true if the request of the known feed came after this one; a version before had fewer fields
local function is_later(known)
  local ending = string.sub(known, -80)
  local known_arrived, known_offset = string.match(ending, '"arrived_at":(%d+),"offset":(%d+)}$')
  known_arrived = tonumber(known_arrived or string.match(ending, '"arrived_at":(%d+)}$')
    or string.match(known, '^{"at":(%d+)'))
  if not known_arrived or known_arrived ~= arrived then return known_arrived and known_arrived > arrived end
  return known_offset and tonumber(known_offset) > offset
end

local first = answer_to(computed)
if not first and document ~= '' then
  local known = redis.call('GET', feed)
  local is_late = known and is_later(known)
  local replaces = not is_late
  if known and is_feed(document) ~= is_feed(known) then
    replaces = is_feed(document)
  elseif known and has_items(known) and not has_items(document) then
    replaces = withdraws and not is_late
  end
  if replaces then
    if known and is_feed(known) then keep(known) end
    redis.call('SET', feed, document, 'EX', ttl)
  elseif is_feed(document) then
    keep(document)
  end
  if explained ~= '' and (replaces or not (has_items(document) or is_late)) then
    redis.call('SET', explain, explained, 'EX', ttl)
  end
end

if redis.call('HLEN', answered) >= full then
  redis.call('UNLINK', before)
  redis.call('RENAME', answered, before)
  redis.call('EXPIRE', before, ledger_ttl)
end
local records = {}
for i = 13, #ARGV, 3 do
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

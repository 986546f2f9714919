-- Write one answer: the feed, its explanation, and one ledger entry for each request that it answers.
--
-- KEYS: feed document, explanation, ledger (hash: request id -> record), ready channel
-- ARGV: 1 `at` of the request (ms), 2 feed document, 3 TTL of feed and explanation (s), 4 explanation or '',
--       5 '1' if a stored feed with items takes precedence over this one, 6 TTL of the ledger (s),
--       7 number of answers between two clean-ups of the ledger, 8 time of serving (ms),
--       9 ... three for each request: its id, its id as MessagePack, its record as MessagePack.
--       The first request is the computed one.
-- Returns the record that counts for each request: the first that was ever written.
--
-- The documents are compared without a parser: `at` is the first field of the feed, and its items are empty or not.
-- A record is a MessagePack array with the request id as its first field, so it becomes the record of another request
-- by replacing these bytes.

local feed, explain, answered, channel = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local at, document, ttl, explained, keeps = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4], ARGV[5] == '1'
local ledger_ttl, tidied_each, served_at = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])

local first = redis.call('HGET', answered, ARGV[9])
if not first then
  local known = redis.call('GET', feed)
  local known_at = known and tonumber(string.match(known, '^{"at":(%d+)'))
  local older = known_at and known_at > at
  local has_items = known and not string.find(known, '"items":[]', 1, true)
  if not older and not (keeps and has_items) then
    redis.call('SET', feed, document, 'EX', ttl)
    if explained ~= '' then redis.call('SET', explain, explained, 'EX', ttl) end
  end
end

local before, records = redis.call('HLEN', answered), {}
for i = 9, #ARGV, 3 do
  local record = ARGV[i + 2]
  if first then
    local header = string.byte(first) == 0xdc and 3 or 1
    record = string.sub(first, 1, header) .. ARGV[i + 1] .. string.sub(first, header + #ARGV[10] + 1)
  end
  redis.call('HSETNX', answered, ARGV[i], record)
  records[#records + 1] = redis.call('HGET', answered, ARGV[i])
  redis.call('PUBLISH', channel, ARGV[i])
end
redis.call('EXPIRE', answered, ledger_ttl)

if math.floor(redis.call('HLEN', answered) / tidied_each) > math.floor(before / tidied_each) then
  local entries = redis.call('HGETALL', answered)
  for i = 1, #entries, 2 do
    if cmsgpack.unpack(entries[i + 1])[5] < served_at - 1000 * ledger_ttl then
      redis.call('HDEL', answered, entries[i])
    end
  end
end
return records

-- Extends a person's entry if one claim of one socket still stands in it.
-- KEYS[1]: the entry. ARGV: the socket's id, its claim, the TTL in seconds. Answers 1 if it stands.
local raw = redis.pcall('GET', KEYS[1])
if type(raw) ~= 'string' then return 0 end
local read, entry = pcall(cjson.decode, raw)
if not read or type(entry) ~= 'table' then return 0 end
local all = {entry}
if type(entry.others) == 'table' then
  for _, other in ipairs(entry.others) do all[#all + 1] = other end
end
for _, one in ipairs(all) do
  if type(one) == 'table' and one.socketId == ARGV[1] and one.claim == ARGV[2] then
    return redis.call('EXPIRE', KEYS[1], ARGV[3])
  end
end
return 0

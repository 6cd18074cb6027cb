# Counts in the database file that is named what users and groups have: VMs that are not DONE, with their processors and
# memory, images with their sizes, and what backups under way have reserved. Says where the table of quotas differs.
# What single disks, addresses and devices take is left to the daemon's own tests. One view, read only.
import collections, json, math, re, sqlite3, sys

base = sqlite3.connect('file:' + sys.argv[1] + '?mode=ro', uri=True, timeout=20, isolation_level=None)
base.execute('BEGIN')
has = collections.Counter()
def take(uid, gid, resource, key, metric, amount):
    for owner, number in (('USER', uid), ('GROUP', gid)):
        if number != 0:
            has[owner, number, resource, str(key), metric] += amount
for uid, gid, datastore, size in base.execute('SELECT uid, gid, datastore_id, size_mb FROM image'):
    take(uid, gid, 'DATASTORE', datastore, 'SIZE', size)
    take(uid, gid, 'DATASTORE', datastore, 'IMAGES', 1)
reserving = "SELECT plan FROM job WHERE kind = 'BACKUP' AND phase IN ('planned', 'prepared', 'copied', 'sealed')"
for plan, in base.execute(reserving):
    reserved = json.loads(plan)['reserved']
    for resource, metric, amount in reserved['demand']:
        take(reserved['uid'], reserved['gid'], 'DATASTORE', resource['Datastore'], metric.upper(), amount)
vms = 'SELECT vm.uid, vm.gid, vm.state, vm.template, host.cluster_id FROM vm LEFT JOIN host ON host.id = vm.host_id'
for uid, gid, state, template, cluster in base.execute(vms + ' WHERE vm.state <> 6'):
    number = lambda name: float((re.findall('^' + name + r' *= *"([0-9.]+)"', template, re.M) or ['0'])[0])
    takes = {'VMS': 1, 'CPU': math.ceil(100 * number('CPU') - 1e-6), 'MEMORY': math.ceil(number('MEMORY'))}
    for scope in [''] + ([] if cluster is None else [str(cluster)]):
        for metric, amount in takes.items():
            take(uid, gid, 'VM', scope, metric, amount)
            if state in (1, 2, 3, 10):
                take(uid, gid, 'VM', scope, 'RUNNING_' + metric, amount)
known = {'SIZE', 'IMAGES', 'VMS', 'CPU', 'MEMORY', 'RUNNING_VMS', 'RUNNING_CPU', 'RUNNING_MEMORY'}
counted = collections.Counter()
for *place, used in base.execute('SELECT owner, owner_id, resource, resource_id, metric, used FROM quota'):
    if place[4] in known:
        counted[tuple(place)] += used
for place in sorted(set(has) | set(counted)):
    if has[place] != counted[place]:
        print('%s %d, %s %s %s:' % place, 'counted', counted[place], 'has', has[place])

import sys,time
from tests.sim.system.faults_put_back import FAULTS_PUT_BACK, put_back
from mas.sim.system.run import simulate
budget=float(sys.argv[1])
for f in FAULTS_PUT_BACK:
    if len(sys.argv)>2 and not any(a in f.name for a in sys.argv[2:]): continue
    t=time.process_time()
    try:
        with put_back(f):
            seed=0
            while time.process_time()-t<budget:
                seed+=1
                o=simulate(seed,f.options,kept=1)
                if o.violation:
                    print(f.name[:40], seed, f.words in o.violation, o.violation[:150], flush=True)
                    if f.words in o.violation: break
            else: print(f.name[:40],'NOT FOUND in',seed,flush=True)
    except AssertionError as e: print(f.name[:40], 'PATCH', e, flush=True)

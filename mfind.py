import sys
from tests.sim.system.faults_put_back import FAULTS_PUT_BACK, put_back
from mas.sim.system.run import simulate
n=int(sys.argv[2])
for f in FAULTS_PUT_BACK:
    if sys.argv[1] in f.name:
        with put_back(f):
            for seed in range(1,n+1):
                o=simulate(seed,f.options,kept=1)
                if o.violation: 
                    print(f.name[:40], seed, f.words in o.violation, o.violation[:200], flush=True)
                    if f.words in o.violation: break
            else: print(f.name[:40],'NOT FOUND in',n)

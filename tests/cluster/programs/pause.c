// SPDX-License-Identifier: Apache-2.0
/* Holds a pod's namespaces until it is told to end. */
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

static void end(int signal_number)
{
	(void)signal_number;
	_exit(0);
}

int main(void)
{
	signal(SIGCHLD, SIG_IGN); /* nobody waits for the orphans of a shared PID namespace */
	signal(SIGINT, end);
	signal(SIGTERM, end);
	for (;;)
		pause();
}

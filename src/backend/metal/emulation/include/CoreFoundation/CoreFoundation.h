// Names that metal-cpp's declarations mention; nothing of it is called.
#pragma once
#include <math.h>
typedef const void* CFTypeRef;
typedef double CFTimeInterval;
typedef struct dispatch_queue_s* dispatch_queue_t;
typedef struct dispatch_data_s* dispatch_data_t;
